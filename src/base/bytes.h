// Byte strings and their hex form.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dstack::base {

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<const std::uint8_t>;

inline ByteView as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
inline std::string_view as_text(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes to_bytes(std::string_view text) {
  return {text.begin(), text.end()};
}
inline Bytes to_bytes(ByteView view) {
  return {view.begin(), view.end()};
}
inline std::string to_text(ByteView bytes) {
  return std::string(as_text(bytes));
}

// Lower-case hex without prefix.
std::string to_hex(ByteView bytes);
// Strict: even length, only hex digits, no prefix. Upper and lower case accepted.
std::optional<Bytes> from_hex(std::string_view hex);

// Appends.
inline void append(Bytes& out, ByteView tail) {
  out.insert(out.end(), tail.begin(), tail.end());
}
inline void append(Bytes& out, std::string_view tail) {
  append(out, as_bytes(tail));
}

// Standard base64 with padding (RFC 4648 section 4).
std::string to_base64(ByteView bytes);
std::optional<Bytes> from_base64(std::string_view text);

// Compares in time that depends only on the lengths.
bool equal_constant_time(ByteView a, ByteView b);

// Hex normalisation shared by the client and the webhook (spec/host.md section 2.9): trim, drop one 0x or 0X,
// lower-case. Does not check that the rest is hex.
std::string normalize_hex(std::string_view text);
// The same without a copy when `text` is in that form already; else the result is in `storage`.
std::string_view normalize_hex(std::string_view text, std::string& storage);

std::string_view trim(std::string_view text);

}  // namespace dstack::base
