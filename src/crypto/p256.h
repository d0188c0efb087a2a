// NIST P-256 keys: the keys of all certificates and quotes.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "crypto/secret.h"

namespace dstack::crypto {

// r and s, 32 bytes each, big-endian.
using RawSignature = std::array<std::uint8_t, 64>;

class P256PublicKey {
 public:
  // DER SubjectPublicKeyInfo of an uncompressed named-curve key. Code::bad_key.
  static base::Result<P256PublicKey> from_spki(base::ByteView der);
  // X and Y, 32 bytes each, as quotes carry them. Code::bad_key when not on the curve.
  static base::Result<P256PublicKey> from_raw(base::ByteView xy);

  const base::Bytes& spki() const { return m_spki; }
  // 0x04, X, Y.
  base::Bytes point() const;
  // X, Y.
  std::array<std::uint8_t, 64> raw() const;

  // ECDSA with SHA-256 over `message`.
  bool verify_der(base::ByteView message, base::ByteView signature) const;
  bool verify_raw(base::ByteView message, base::ByteView signature) const;

 private:
  friend class P256Key;
  friend class X509Access;
  P256PublicKey(std::shared_ptr<void> key, base::Bytes spki)
      : m_key(std::move(key)), m_spki(std::move(spki)) {}
  std::shared_ptr<void> m_key;  // EVP_PKEY
  base::Bytes m_spki;
};

class P256Key {
 public:
  static base::Result<P256Key> generate();
  // 32 bytes big-endian, used as they are: 0 and values not below the group order are Code::bad_key.
  static base::Result<P256Key> from_scalar(base::ByteView scalar);
  // "-----BEGIN PRIVATE KEY-----".
  static base::Result<P256Key> from_pkcs8_pem(std::string_view pem);

  Secret scalar() const;
  // PKCS#8 version 1 with the public key included, 138 bytes (spec/guest-kms.md section 1.5).
  Secret pkcs8_der() const;
  Secret pkcs8_pem() const;
  const P256PublicKey& public_key() const { return m_public; }
  const base::Bytes& spki() const { return m_public.spki(); }

  base::Result<base::Bytes> sign_der(base::ByteView message) const;
  base::Result<RawSignature> sign_raw(base::ByteView message) const;

 private:
  friend class X509Access;
  explicit P256Key(P256PublicKey key) : m_public(std::move(key)) {}
  P256PublicKey m_public;  // its EVP_PKEY holds the private part as well
};

}  // namespace dstack::crypto
