#include "crypto/keccak.h"

#include <bit>
#include <cstddef>

namespace dstack::crypto {
namespace {

constexpr int k_rounds = 24;

// The round constants are the output of a linear feedback shift register over x^8+x^6+x^5+x^4+1 (FIPS
// 202, 3.2.5).
constexpr std::array<std::uint64_t, k_rounds> make_round_constants() {
  std::array<std::uint64_t, k_rounds> constants{};
  unsigned lfsr = 1;
  for (auto& constant : constants) {
    for (unsigned j = 0; j < 7; ++j) {
      if ((lfsr & 1U) != 0) {
        constant |= 1ULL << ((1U << j) - 1);
      }
      lfsr = (lfsr << 1) ^ ((lfsr >> 7) * 0x171U);
    }
  }
  return constants;
}
constexpr auto k_round_constants = make_round_constants();

}  // namespace

void keccak_f1600(std::array<std::uint64_t, 25>& a) {
  for (int round = 0; round < k_rounds; ++round) {
    std::array<std::uint64_t, 5> column{};
    for (std::size_t x = 0; x < 5; ++x) {
      column[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
    }
    for (std::size_t x = 0; x < 5; ++x) {
      const std::uint64_t mix = column[(x + 4) % 5] ^ std::rotl(column[(x + 1) % 5], 1);
      for (std::size_t y = 0; y < 25; y += 5) {
        a[x + y] ^= mix;
      }
    }
    // Rotations and moves together: walk the lanes' cycle from (1,0); offsets are the triangular numbers.
    std::size_t x = 1;
    std::size_t y = 0;
    std::uint64_t lane = a[1];
    for (int t = 0; t < 24; ++t) {
      const std::size_t next_y = (2 * x + 3 * y) % 5;
      x = y;
      y = next_y;
      const std::uint64_t moved = std::rotl(lane, ((t + 1) * (t + 2) / 2) % 64);
      lane = a[x + 5 * y];
      a[x + 5 * y] = moved;
    }
    for (std::size_t row = 0; row < 25; row += 5) {
      const std::array<std::uint64_t, 5> old = {a[row], a[row + 1], a[row + 2], a[row + 3], a[row + 4]};
      for (std::size_t i = 0; i < 5; ++i) {
        a[row + i] = old[i] ^ (~old[(i + 1) % 5] & old[(i + 2) % 5]);
      }
    }
    a[0] ^= k_round_constants[static_cast<std::size_t>(round)];
  }
}

}  // namespace dstack::crypto
