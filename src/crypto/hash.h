// Digests. The list forms hash the concatenation of their parts.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

#include "base/bytes.h"

namespace dstack::crypto {

using Hash256 = std::array<std::uint8_t, 32>;
using Hash384 = std::array<std::uint8_t, 48>;
using Hash512 = std::array<std::uint8_t, 64>;
using Parts = std::initializer_list<base::ByteView>;

Hash256 sha256(Parts parts);
Hash384 sha384(Parts parts);
Hash512 sha512(Parts parts);
inline Hash256 sha256(base::ByteView data) {
  return sha256({data});
}
inline Hash384 sha384(base::ByteView data) {
  return sha384({data});
}
inline Hash512 sha512(base::ByteView data) {
  return sha512({data});
}
// Lower hex of the SHA-256 of a text.
std::string sha256_hex(std::string_view text);

// Keccak-256 with the original padding (0x01), as Ethereum uses it; not SHA3-256.
Hash256 keccak256(Parts parts);
inline Hash256 keccak256(base::ByteView data) {
  return keccak256({data});
}

// SHA-256 of data that comes in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void update(base::ByteView data);
  Hash256 finish();  // once

 private:
  struct Impl;
  std::unique_ptr<Impl> m_impl;
};

}  // namespace dstack::crypto
