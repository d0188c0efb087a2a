#include "crypto/k256.h"

#include <secp256k1.h>
#include <secp256k1_recovery.h>

#include <cstdlib>
#include <memory>

#include "crypto/random.h"

namespace dstack::crypto {
namespace {

using base::ByteView;
using base::Code;
using base::fail;
using base::Result;

const secp256k1_context* context() {
  static const std::unique_ptr<secp256k1_context, void (*)(secp256k1_context*)> instance = [] {
    std::unique_ptr<secp256k1_context, void (*)(secp256k1_context*)> made(
        secp256k1_context_create(SECP256K1_CONTEXT_SIGN | SECP256K1_CONTEXT_VERIFY),
        secp256k1_context_destroy);
    // Blinding against side channels.
    auto seed = random_secret(32);
    if (!seed || secp256k1_context_randomize(made.get(), seed->data()) != 1) {
      std::abort();
    }
    return made;
  }();
  return instance.get();
}

K256PublicKey compress(const secp256k1_pubkey& key) {
  K256PublicKey out{};
  std::size_t size = out.size();
  secp256k1_ec_pubkey_serialize(context(), out.data(), &size, &key, SECP256K1_EC_COMPRESSED);
  return out;
}

}  // namespace

Result<K256Key> K256Key::generate() {
  // The chance to need a second try is 2^-128.
  for (int attempt = 0; attempt < 4; ++attempt) {
    DS_TRY(auto scalar, random_secret(32));
    if (auto key = from_scalar(scalar.view())) {
      return key;
    }
  }
  return fail(Code::crypto, "a secp256k1 key cannot be generated");
}

Result<K256Key> K256Key::from_scalar(ByteView scalar) {
  if (scalar.size() != 32) {
    return fail(Code::bad_key, "a secp256k1 private key must have 32 bytes");
  }
  secp256k1_pubkey key;
  if (secp256k1_ec_pubkey_create(context(), &key, scalar.data()) != 1) {
    return fail(Code::bad_key, "a secp256k1 private key is zero or not below the group order");
  }
  return K256Key(Secret(scalar), compress(key));
}

Result<K256Signature> K256Key::sign_recoverable(const Hash256& digest) const {
  secp256k1_ecdsa_recoverable_signature signature;
  if (secp256k1_ecdsa_sign_recoverable(context(), &signature, digest.data(), m_scalar.view().data(), nullptr,
                                       nullptr) != 1) {
    return fail(Code::crypto, "signing with a secp256k1 key failed");
  }
  K256Signature out{};
  int recovery_id = 0;
  secp256k1_ecdsa_recoverable_signature_serialize_compact(context(), out.data(), &recovery_id, &signature);
  out[64] = static_cast<std::uint8_t>(recovery_id);
  return out;
}

Result<K256PublicKey> k256_recover(const Hash256& digest, ByteView signature65) {
  secp256k1_ecdsa_recoverable_signature signature;
  secp256k1_pubkey key;
  if (signature65.size() != 65 || signature65[64] > 3 ||
      secp256k1_ecdsa_recoverable_signature_parse_compact(context(), &signature, signature65.data(),
                                                          signature65[64]) != 1 ||
      secp256k1_ecdsa_recover(context(), &key, &signature, digest.data()) != 1) {
    return fail(Code::crypto, "not a recoverable secp256k1 signature of 65 bytes");
  }
  return compress(key);
}

bool k256_verify(ByteView public_key, const Hash256& digest, ByteView signature) {
  secp256k1_pubkey key;
  secp256k1_ecdsa_signature parsed;
  if ((signature.size() != 64 && signature.size() != 65) ||
      secp256k1_ec_pubkey_parse(context(), &key, public_key.data(), public_key.size()) != 1 ||
      secp256k1_ecdsa_signature_parse_compact(context(), &parsed, signature.data()) != 1) {
    return false;
  }
  secp256k1_ecdsa_signature_normalize(context(), &parsed, &parsed);
  return secp256k1_ecdsa_verify(context(), &parsed, digest.data(), &key) == 1;
}

}  // namespace dstack::crypto
