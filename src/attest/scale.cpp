#include "attest/scale.h"

namespace dstack::attest {

void ScaleWriter::compact(std::uint64_t value) {
  if (value < (1U << 6)) {
    u8(static_cast<std::uint8_t>(value << 2));
  } else if (value < (1U << 14)) {
    little_endian(static_cast<std::uint16_t>(value << 2 | 1));
  } else if (value < (1U << 30)) {
    u32(static_cast<std::uint32_t>(value << 2 | 2));
  } else {
    u8(3);
    u32(static_cast<std::uint32_t>(value));
  }
}

base::ByteView ScaleReader::raw(std::size_t size) {
  if (!m_ok || size > m_rest.size()) {
    fail();
    return {};
  }
  const base::ByteView out = m_rest.first(size);
  m_rest = m_rest.subspan(size);
  return out;
}

std::uint64_t ScaleReader::little_endian(std::size_t size) {
  const base::ByteView view = raw(size);
  std::uint64_t value = 0;
  for (std::size_t i = view.size(); i > 0; --i) {
    value = value << 8 | view[i - 1];
  }
  return value;
}

std::uint8_t ScaleReader::u8() {
  return static_cast<std::uint8_t>(little_endian(1));
}

bool ScaleReader::boolean() {
  const auto value = u8();
  if (value > 1) {
    fail();
  }
  return value == 1;
}

std::uint64_t ScaleReader::compact() {
  const std::uint8_t first = u8();
  std::uint64_t value = first >> 2;
  std::uint64_t least = 0;
  switch (first & 3U) {
    case 0:
      return value;
    case 1:
      value |= static_cast<std::uint64_t>(u8()) << 6;
      least = 1U << 6;
      break;
    case 2:
      value |= little_endian(3) << 6;
      least = 1U << 14;
      break;
    default:
      // Longer integers exist in SCALE but no length here can need them.
      if (first != 3) {
        fail();
      }
      value = u32();
      least = 1U << 30;
      break;
  }
  if (!m_ok || value < least) {
    fail();
    return 0;
  }
  return value;
}

std::size_t ScaleReader::count(std::size_t limit, std::size_t min_size) {
  const std::uint64_t value = compact();
  if (!m_ok || value > limit || value * min_size > m_rest.size()) {
    fail();
    return 0;
  }
  return value;
}

}  // namespace dstack::attest
