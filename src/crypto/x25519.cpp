#include "crypto/x25519.h"

#include "crypto/openssl.h"

namespace dstack::crypto {
namespace {

using base::ByteView;
using base::Code;
using base::fail;
using base::Result;

Result<PkeyPtr> private_key(int type, ByteView secret) {
  PkeyPtr key(secret.size() == 32 ? EVP_PKEY_new_raw_private_key(type, nullptr, secret.data(), secret.size())
                                  : nullptr);
  if (key == nullptr) {
    return fail_openssl(Code::bad_key, "not a 32-byte private key");
  }
  return key;
}

Result<Key32> public_part(int type, ByteView secret) {
  DS_TRY(auto key, private_key(type, secret));
  Key32 out{};
  std::size_t size = out.size();
  if (EVP_PKEY_get_raw_public_key(key.get(), out.data(), &size) != 1 || size != out.size()) {
    return fail_openssl(Code::crypto, "a public key cannot be computed");
  }
  return out;
}

}  // namespace

Result<Key32> x25519_public(ByteView secret) {
  return public_part(EVP_PKEY_X25519, secret);
}

Result<Secret> x25519_shared(ByteView secret, ByteView peer_public) {
  DS_TRY(auto key, private_key(EVP_PKEY_X25519, secret));
  PkeyPtr peer(peer_public.size() == 32 ? EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr,
                                                                      peer_public.data(), peer_public.size())
                                        : nullptr);
  PkeyCtxPtr context(EVP_PKEY_CTX_new_from_pkey(nullptr, key.get(), nullptr));
  Secret out(std::size_t{32});
  std::size_t size = out.size();
  if (peer == nullptr || context == nullptr || EVP_PKEY_derive_init(context.get()) != 1 ||
      EVP_PKEY_derive_set_peer(context.get(), peer.get()) != 1 ||
      EVP_PKEY_derive(context.get(), out.data(), &size) != 1) {
    return fail_openssl(Code::crypto, "an X25519 agreement failed");
  }
  return out;
}

Result<Key32> ed25519_public(ByteView seed) {
  return public_part(EVP_PKEY_ED25519, seed);
}

Result<std::array<std::uint8_t, 64>> ed25519_sign(ByteView seed, ByteView message) {
  DS_TRY(auto key, private_key(EVP_PKEY_ED25519, seed));
  MdCtxPtr context(EVP_MD_CTX_new());
  std::array<std::uint8_t, 64> out{};
  std::size_t size = out.size();
  if (context == nullptr || EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), out.data(), &size, message.data(), message.size()) != 1) {
    return fail_openssl(Code::crypto, "signing with an Ed25519 key failed");
  }
  return out;
}

bool ed25519_verify(ByteView public_key, ByteView message, ByteView signature) {
  PkeyPtr key(public_key.size() == 32 ? EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr,
                                                                    public_key.data(), public_key.size())
                                      : nullptr);
  MdCtxPtr context(EVP_MD_CTX_new());
  const bool ok = key != nullptr && context != nullptr &&
                  EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
                  EVP_DigestVerify(context.get(), signature.data(), signature.size(), message.data(),
                                   message.size()) == 1;
  ERR_clear_error();
  return ok;
}

}  // namespace dstack::crypto
