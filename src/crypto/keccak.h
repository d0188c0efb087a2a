// The Keccak-f[1600] permutation, used by keccak256 in hash.h. OpenSSL 3.0 only has the NIST padding.
#pragma once

#include <array>
#include <cstdint>

namespace dstack::crypto {

void keccak_f1600(std::array<std::uint64_t, 25>& state);

}  // namespace dstack::crypto
