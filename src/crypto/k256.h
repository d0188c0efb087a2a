// secp256k1 keys and recoverable signatures (spec/guest-kms.md section 1.5).
#pragma once

#include <array>

#include "base/bytes.h"
#include "base/result.h"
#include "crypto/hash.h"
#include "crypto/secret.h"

namespace dstack::crypto {

using K256PublicKey = std::array<std::uint8_t, 33>;  // compressed
using K256Signature = std::array<std::uint8_t, 65>;  // r, s, recovery id 0 or 1

class K256Key {
 public:
  static base::Result<K256Key> generate();
  // 32 bytes big-endian; Code::bad_key when 0 or not below the group order.
  static base::Result<K256Key> from_scalar(base::ByteView scalar);

  const Secret& scalar() const { return m_scalar; }
  const K256PublicKey& public_key() const { return m_public; }
  // Deterministic (RFC 6979) with low s.
  base::Result<K256Signature> sign_recoverable(const Hash256& digest) const;

 private:
  K256Key(Secret scalar, const K256PublicKey& key) : m_scalar(std::move(scalar)), m_public(key) {}
  Secret m_scalar;
  K256PublicKey m_public;
};

// The key that made the signature.
base::Result<K256PublicKey> k256_recover(const Hash256& digest, base::ByteView signature65);
// `signature` is r and s, optionally with a recovery id behind, which is ignored. High s is accepted.
bool k256_verify(base::ByteView public_key, const Hash256& digest, base::ByteView signature);

}  // namespace dstack::crypto
