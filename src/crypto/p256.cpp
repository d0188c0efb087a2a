#include "crypto/p256.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>

#include <algorithm>

#include "crypto/openssl.h"

namespace dstack::crypto {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::Result;

constexpr std::size_t k_scalar_size = 32;
constexpr std::size_t k_spki_size = 91;  // with an uncompressed point
using ParamBldPtr = std::unique_ptr<OSSL_PARAM_BLD, OsslFree<OSSL_PARAM_BLD_free>>;
using ParamPtr = std::unique_ptr<OSSL_PARAM, OsslFree<OSSL_PARAM_free>>;
using GroupPtr = std::unique_ptr<EC_GROUP, OsslFree<EC_GROUP_free>>;
using PointPtr = std::unique_ptr<EC_POINT, OsslFree<EC_POINT_clear_free>>;
using EcdsaSigPtr = std::unique_ptr<ECDSA_SIG, OsslFree<ECDSA_SIG_free>>;
using Pkcs8Ptr = std::unique_ptr<PKCS8_PRIV_KEY_INFO, OsslFree<PKCS8_PRIV_KEY_INFO_free>>;

EVP_PKEY* pkey(const std::shared_ptr<void>& key) {
  return static_cast<EVP_PKEY*>(key.get());
}

std::shared_ptr<void> share(PkeyPtr key) {
  return {key.release(), [](EVP_PKEY* p) { EVP_PKEY_free(p); }};
}

bool is_p256(EVP_PKEY* key) {
  char name[32] = {};
  return EVP_PKEY_is_a(key, "EC") == 1 && EVP_PKEY_get_group_name(key, name, sizeof name, nullptr) == 1 &&
         std::string_view(name) == SN_X9_62_prime256v1;
}

Result<Bytes> encode_spki(EVP_PKEY* key) {
  const int size = i2d_PUBKEY(key, nullptr);
  if (size <= 0) {
    return fail_openssl(Code::crypto, "a P-256 key cannot be encoded");
  }
  Bytes out(static_cast<std::size_t>(size));
  unsigned char* at = out.data();
  i2d_PUBKEY(key, &at);
  return out;
}

// From the uncompressed point and, for a private key, its scalar.
Result<PkeyPtr> build(ByteView point, const BIGNUM* scalar) {
  ParamBldPtr builder(OSSL_PARAM_BLD_new());
  if (builder == nullptr ||
      OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, SN_X9_62_prime256v1, 0) !=
          1 ||
      OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()) !=
          1 ||
      (scalar != nullptr && OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_PRIV_KEY, scalar) != 1)) {
    return fail_openssl(Code::crypto, "a P-256 key cannot be built");
  }
  ParamPtr params(OSSL_PARAM_BLD_to_param(builder.get()));
  PkeyCtxPtr context(EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr));
  EVP_PKEY* raw = nullptr;
  const int selection = scalar != nullptr ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY;
  if (params == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &raw, selection, params.get()) != 1) {
    return fail_openssl(Code::bad_key, "not a P-256 key");
  }
  PkeyPtr key(raw);
  PkeyCtxPtr check(EVP_PKEY_CTX_new_from_pkey(nullptr, key.get(), nullptr));
  if (check == nullptr || EVP_PKEY_public_check(check.get()) != 1) {
    return fail_openssl(Code::bad_key, "not a point of the P-256 curve");
  }
  return key;
}

Result<RawSignature> to_raw_signature(ByteView der) {
  const unsigned char* at = der.data();
  EcdsaSigPtr signature(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size())));
  RawSignature out{};
  if (signature == nullptr ||
      BN_bn2binpad(ECDSA_SIG_get0_r(signature.get()), out.data(), k_scalar_size) != k_scalar_size ||
      BN_bn2binpad(ECDSA_SIG_get0_s(signature.get()), out.data() + k_scalar_size, k_scalar_size) !=
          k_scalar_size) {
    return fail_openssl(Code::crypto, "an ECDSA signature cannot be decoded");
  }
  return out;
}

}  // namespace

Result<P256PublicKey> P256PublicKey::from_spki(ByteView der) {
  const unsigned char* at = der.data();
  PkeyPtr key(d2i_PUBKEY(nullptr, &at, static_cast<long>(der.size())));
  if (key == nullptr || at != der.data() + der.size() || !is_p256(key.get())) {
    return fail_openssl(Code::bad_key, "not the SubjectPublicKeyInfo of a P-256 key");
  }
  DS_TRY(auto spki, encode_spki(key.get()));
  // One key has one encoding here: bindings are hashes of it.
  if (spki.size() != k_spki_size || spki[k_spki_size - 65] != 0x04 || !std::ranges::equal(spki, der)) {
    return fail(Code::bad_key, "a P-256 SubjectPublicKeyInfo is not in its usual form");
  }
  return P256PublicKey(share(std::move(key)), std::move(spki));
}

Result<P256PublicKey> P256PublicKey::from_raw(ByteView xy) {
  if (xy.size() != 2 * k_scalar_size) {
    return fail(Code::bad_key, "a raw P-256 key must have 64 bytes");
  }
  Bytes point{0x04};
  base::append(point, xy);
  DS_TRY(auto key, build(point, nullptr));
  DS_TRY(auto spki, encode_spki(key.get()));
  return P256PublicKey(share(std::move(key)), std::move(spki));
}

Bytes P256PublicKey::point() const {
  return Bytes(m_spki.end() - 65, m_spki.end());
}

std::array<std::uint8_t, 64> P256PublicKey::raw() const {
  std::array<std::uint8_t, 64> out{};
  std::copy(m_spki.end() - 64, m_spki.end(), out.begin());
  return out;
}

bool P256PublicKey::verify_der(ByteView message, ByteView signature) const {
  MdCtxPtr context(EVP_MD_CTX_new());
  const bool ok = context != nullptr &&
                  EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, pkey(m_key)) == 1 &&
                  EVP_DigestVerify(context.get(), signature.data(), signature.size(), message.data(),
                                   message.size()) == 1;
  ERR_clear_error();
  return ok;
}

bool P256PublicKey::verify_raw(ByteView message, ByteView signature) const {
  if (signature.size() != 2 * k_scalar_size) {
    return false;
  }
  EcdsaSigPtr parts(ECDSA_SIG_new());
  BIGNUM* r = BN_bin2bn(signature.data(), k_scalar_size, nullptr);
  BIGNUM* s = BN_bin2bn(signature.data() + k_scalar_size, k_scalar_size, nullptr);
  if (parts == nullptr || r == nullptr || s == nullptr || ECDSA_SIG_set0(parts.get(), r, s) != 1) {
    BN_free(r);
    BN_free(s);
    return false;
  }
  Bytes der(static_cast<std::size_t>(std::max(0, i2d_ECDSA_SIG(parts.get(), nullptr))));
  unsigned char* at = der.data();
  i2d_ECDSA_SIG(parts.get(), &at);
  return verify_der(message, der);
}

Result<P256Key> P256Key::generate() {
  PkeyPtr key(EVP_EC_gen(SN_X9_62_prime256v1));
  if (key == nullptr) {
    return fail_openssl(Code::crypto, "a P-256 key cannot be generated");
  }
  DS_TRY(auto spki, encode_spki(key.get()));
  return P256Key(P256PublicKey(share(std::move(key)), std::move(spki)));
}

Result<P256Key> P256Key::from_scalar(ByteView scalar) {
  if (scalar.size() != k_scalar_size) {
    return fail(Code::bad_key, "a P-256 private key must have 32 bytes");
  }
  GroupPtr group(EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1));
  BnPtr number(BN_secure_new());
  if (group == nullptr || number == nullptr ||
      BN_bin2bn(scalar.data(), static_cast<int>(scalar.size()), number.get()) == nullptr) {
    return fail_openssl(Code::crypto, "a P-256 key cannot be built");
  }
  if (BN_is_zero(number.get()) || BN_cmp(number.get(), EC_GROUP_get0_order(group.get())) >= 0) {
    return fail(Code::bad_key, "a P-256 private key is zero or not below the group order");
  }
  BN_set_flags(number.get(), BN_FLG_CONSTTIME);
  PointPtr point(EC_POINT_new(group.get()));
  std::array<std::uint8_t, 65> encoded{};
  if (point == nullptr ||
      EC_POINT_mul(group.get(), point.get(), number.get(), nullptr, nullptr, nullptr) != 1 ||
      EC_POINT_point2oct(group.get(), point.get(), POINT_CONVERSION_UNCOMPRESSED, encoded.data(),
                         encoded.size(), nullptr) != encoded.size()) {
    return fail_openssl(Code::crypto, "a P-256 public key cannot be computed");
  }
  DS_TRY(auto key, build(encoded, number.get()));
  DS_TRY(auto spki, encode_spki(key.get()));
  return P256Key(P256PublicKey(share(std::move(key)), std::move(spki)));
}

Result<P256Key> P256Key::from_pkcs8_pem(std::string_view pem) {
  BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  // An empty callback: an encrypted key is an error, never a prompt on the terminal.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  PkeyPtr key(bio != nullptr ? PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr) : nullptr);
  if (key == nullptr || !is_p256(key.get())) {
    return fail_openssl(Code::bad_key, "not a P-256 private key in PEM form");
  }
  // Rebuilt from its scalar, so that a file with a foreign public part cannot get in.
  BIGNUM* raw = nullptr;
  if (EVP_PKEY_get_bn_param(key.get(), OSSL_PKEY_PARAM_PRIV_KEY, &raw) != 1) {
    return fail_openssl(Code::bad_key, "a PEM key has no private part");
  }
  BnPtr number(raw);
  Secret scalar(k_scalar_size);
  if (BN_bn2binpad(number.get(), scalar.data(), k_scalar_size) != static_cast<int>(k_scalar_size)) {
    return fail_openssl(Code::bad_key, "a PEM key's private part has the wrong size");
  }
  DS_TRY(auto rebuilt, from_scalar(scalar.view()));
  DS_TRY(auto spki, encode_spki(key.get()));
  if (spki != rebuilt.spki()) {
    return fail(Code::bad_key, "the public and private parts of a PEM key do not belong together");
  }
  return rebuilt;
}

Secret P256Key::scalar() const {
  Secret out(k_scalar_size);
  BIGNUM* raw = nullptr;
  if (EVP_PKEY_get_bn_param(pkey(m_public.m_key), OSSL_PKEY_PARAM_PRIV_KEY, &raw) != 1) {
    return {};
  }
  BnPtr number(raw);
  BN_bn2binpad(number.get(), out.data(), k_scalar_size);
  return out;
}

Secret P256Key::pkcs8_der() const {
  Pkcs8Ptr info(EVP_PKEY2PKCS8(pkey(m_public.m_key)));
  const int size = info != nullptr ? i2d_PKCS8_PRIV_KEY_INFO(info.get(), nullptr) : 0;
  Secret out(static_cast<std::size_t>(std::max(0, size)));
  unsigned char* at = out.data();
  if (size > 0) {
    i2d_PKCS8_PRIV_KEY_INFO(info.get(), &at);
  }
  return out;
}

Secret P256Key::pkcs8_pem() const {
  BioPtr bio(BIO_new(BIO_s_secmem()));
  if (bio == nullptr || PEM_write_bio_PKCS8PrivateKey(bio.get(), pkey(m_public.m_key), nullptr, nullptr, 0,
                                                      nullptr, nullptr) != 1) {
    return {};
  }
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return Secret(base::as_bytes({data, static_cast<std::size_t>(size)}));
}

Result<Bytes> P256Key::sign_der(ByteView message) const {
  MdCtxPtr context(EVP_MD_CTX_new());
  std::size_t size = 0;
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, pkey(m_public.m_key)) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, message.data(), message.size()) != 1) {
    return fail_openssl(Code::crypto, "signing with a P-256 key failed");
  }
  Bytes out(size);
  if (EVP_DigestSign(context.get(), out.data(), &size, message.data(), message.size()) != 1) {
    return fail_openssl(Code::crypto, "signing with a P-256 key failed");
  }
  out.resize(size);
  return out;
}

Result<RawSignature> P256Key::sign_raw(ByteView message) const {
  DS_TRY(auto der, sign_der(message));
  return to_raw_signature(der);
}

}  // namespace dstack::crypto
