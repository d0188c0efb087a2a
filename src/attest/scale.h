// SCALE, the little-endian codec of attestation containers and certificate requests (spec/guest-kms.md
// section 2.4).
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::attest {

class ScaleWriter {
 public:
  void u8(std::uint8_t value) { m_out.push_back(value); }
  void u32(std::uint32_t value) { little_endian(value); }
  void u64(std::uint64_t value) { little_endian(value); }
  void boolean(bool value) { u8(value ? 1 : 0); }
  void compact(std::uint64_t value);  // below 2^32
  void raw(base::ByteView bytes) { base::append(m_out, bytes); }
  void bytes(base::ByteView value) {
    compact(value.size());
    raw(value);
  }
  void text(std::string_view value) { bytes(base::as_bytes(value)); }

  base::Bytes take() { return std::move(m_out); }

 private:
  template <std::unsigned_integral T>
  void little_endian(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      m_out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    }
  }
  base::Bytes m_out;
};

// Reads front to back; the first failure sticks and every later read gives zero or empty, so that a decoder
// may read a whole struct and check ok() once. Never reads out of bounds and never allocates more than the
// input's size.
class ScaleReader {
 public:
  explicit ScaleReader(base::ByteView input) : m_rest(input) {}

  std::uint8_t u8();
  std::uint32_t u32() { return static_cast<std::uint32_t>(little_endian(4)); }
  std::uint64_t u64() { return little_endian(8); }
  bool boolean();
  // Canonical form only, below 2^32.
  std::uint64_t compact();
  base::ByteView raw(std::size_t size);
  base::Bytes bytes() { return base::to_bytes(raw(compact())); }
  std::string text() { return base::to_text(raw(compact())); }
  // An element count of at most `limit` for which at least `count * min_size` bytes are left.
  std::size_t count(std::size_t limit, std::size_t min_size);
  template <std::size_t Size>
  std::array<std::uint8_t, Size> array() {
    std::array<std::uint8_t, Size> out{};
    const base::ByteView view = raw(Size);
    std::copy(view.begin(), view.end(), out.begin());
    return out;
  }

  bool ok() const { return m_ok; }
  bool at_end() const { return m_ok && m_rest.empty(); }
  base::ByteView rest() const { return m_rest; }
  void fail() {
    m_ok = false;
    m_rest = {};
  }

 private:
  std::uint64_t little_endian(std::size_t size);
  base::ByteView m_rest;
  bool m_ok = true;
};

}  // namespace dstack::attest
