// X25519 and Ed25519 from raw 32-byte secrets.
#pragma once

#include <array>

#include "base/bytes.h"
#include "base/result.h"
#include "crypto/secret.h"

namespace dstack::crypto {

using Key32 = std::array<std::uint8_t, 32>;

// The secret may be unclamped.
base::Result<Key32> x25519_public(base::ByteView secret);
base::Result<Secret> x25519_shared(base::ByteView secret, base::ByteView peer_public);

base::Result<Key32> ed25519_public(base::ByteView seed);
base::Result<std::array<std::uint8_t, 64>> ed25519_sign(base::ByteView seed, base::ByteView message);
bool ed25519_verify(base::ByteView public_key, base::ByteView message, base::ByteView signature);

}  // namespace dstack::crypto
