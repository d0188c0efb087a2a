// The key derivations of the KMS and the guest agent (spec/guest-kms.md section 1.5). Byte-exact with
// upstream.
#pragma once

#include <cstddef>

#include "base/result.h"
#include "crypto/hash.h"
#include "crypto/k256.h"
#include "crypto/p256.h"
#include "crypto/secret.h"

namespace dstack::crypto {

// Plain HKDF-SHA256 (RFC 5869).
base::Result<Secret> hkdf_sha256(base::ByteView ikm, base::ByteView salt, base::ByteView info,
                                 std::size_t size);

// HKDF-SHA256 with salt "RATLS" and the parts of `context` concatenated as info.
base::Result<Secret> derive_key(base::ByteView ikm, Parts context, std::size_t size = 32);
// derive_key of the parent's scalar, used as the new scalar without reduction; Code::bad_key in the rare case
// that it is not one.
base::Result<P256Key> derive_p256(const P256Key& parent, Parts context);
// SHA-256 of the PKCS#8 DER of derive_p256.
base::Result<Secret> derive_dh_secret(const P256Key& parent, Parts context);
// derive_key used as a secp256k1 scalar.
base::Result<K256Key> derive_k256(base::ByteView ikm, Parts context);

}  // namespace dstack::crypto
