#include "crypto/kdf.h"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "crypto/openssl.h"

namespace dstack::crypto {
namespace {

using base::ByteView;
using base::Code;
using base::Result;
using KdfPtr = std::unique_ptr<EVP_KDF, OsslFree<EVP_KDF_free>>;
using KdfCtxPtr = std::unique_ptr<EVP_KDF_CTX, OsslFree<EVP_KDF_CTX_free>>;

constexpr std::string_view k_salt = "RATLS";

OSSL_PARAM octets(const char* name, ByteView value) {
  // OpenSSL's parameter type is not const-correct; it only reads.
  return OSSL_PARAM_construct_octet_string(name, const_cast<std::uint8_t*>(value.data()), value.size());
}

}  // namespace

Result<Secret> hkdf_sha256(ByteView ikm, ByteView salt, ByteView info, std::size_t size) {
  KdfPtr kdf(EVP_KDF_fetch(nullptr, OSSL_KDF_NAME_HKDF, nullptr));
  KdfCtxPtr context(kdf != nullptr ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
  char digest[] = "SHA256";
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
                               octets(OSSL_KDF_PARAM_KEY, ikm), octets(OSSL_KDF_PARAM_SALT, salt),
                               octets(OSSL_KDF_PARAM_INFO, info), OSSL_PARAM_construct_end()};
  Secret out(size);
  if (context == nullptr || EVP_KDF_derive(context.get(), out.data(), out.size(), params) != 1) {
    return fail_openssl(Code::crypto, "a key derivation failed");
  }
  return out;
}

Result<Secret> derive_key(ByteView ikm, Parts context, std::size_t size) {
  base::Bytes info;
  for (const auto& part : context) {
    base::append(info, part);
  }
  return hkdf_sha256(ikm, base::as_bytes(k_salt), info, size);
}

Result<P256Key> derive_p256(const P256Key& parent, Parts context) {
  const Secret ikm = parent.scalar();
  DS_TRY(auto scalar, derive_key(ikm.view(), context));
  return P256Key::from_scalar(scalar.view());
}

Result<Secret> derive_dh_secret(const P256Key& parent, Parts context) {
  DS_TRY(auto key, derive_p256(parent, context));
  const Secret der = key.pkcs8_der();
  if (der.empty()) {
    return base::fail(Code::crypto, "a derived key cannot be encoded");
  }
  return Secret(sha256(der.view()));
}

Result<K256Key> derive_k256(ByteView ikm, Parts context) {
  DS_TRY(auto scalar, derive_key(ikm, context));
  return K256Key::from_scalar(scalar.view());
}

}  // namespace dstack::crypto
