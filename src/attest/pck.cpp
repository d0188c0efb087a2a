#include "attest/pck.h"

#include <algorithm>
#include <array>
#include <optional>

namespace dstack::attest {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;

constexpr std::uint8_t k_tag_octets = 0x04;
constexpr std::uint8_t k_tag_oid = 0x06;
constexpr std::uint8_t k_tag_sequence = 0x30;
constexpr std::size_t k_ppid_size = 16;
// 1.2.840.113741.1.13.1.N without the last number.
constexpr std::array<std::uint8_t, 9> k_oid_prefix = {0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01};
constexpr std::uint8_t k_ppid = 1;
constexpr std::uint8_t k_fmspc = 4;

// Takes one DER element with this tag from the front.
std::optional<ByteView> take(ByteView& rest, std::uint8_t tag) {
  if (rest.size() < 2 || rest[0] != tag) {
    return std::nullopt;
  }
  std::size_t size = rest[1];
  std::size_t header = 2;
  if (size >= 0x80) {
    const std::size_t digits = size & 0x7fU;
    if (digits == 0 || digits > 3 || rest.size() < 2 + digits) {
      return std::nullopt;
    }
    size = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      size = size << 8 | rest[2 + i];
    }
    header += digits;
  }
  if (rest.size() - header < size) {
    return std::nullopt;
  }
  const ByteView content = rest.subspan(header, size);
  rest = rest.subspan(header + size);
  return content;
}

// Contents here are below 128 bytes.
Bytes element(std::uint8_t tag, ByteView content) {
  Bytes out{tag, static_cast<std::uint8_t>(content.size())};
  base::append(out, content);
  return out;
}

Bytes entry(std::uint8_t number, ByteView value) {
  Bytes oid(k_oid_prefix.begin(), k_oid_prefix.end());
  oid.push_back(number);
  Bytes pair = element(k_tag_oid, oid);
  base::append(pair, element(k_tag_octets, value));
  return element(k_tag_sequence, pair);
}

}  // namespace

base::Result<Bytes> ppid_of(const crypto::Certificate& pck) {
  DS_TRY(auto content, pck.extension(k_oid_sgx));
  const auto malformed = [] {
    return fail(Code::evidence_format,
                "a quote's PCK certificate has no well-formed SGX extension with a PPID");
  };
  if (!content) {
    return malformed();
  }
  ByteView rest = *content;
  const auto entries = take(rest, k_tag_sequence);
  if (!entries || !rest.empty()) {
    return malformed();
  }
  std::optional<Bytes> found;
  for (ByteView list = *entries; !list.empty();) {
    auto pair = take(list, k_tag_sequence);
    auto oid = pair ? take(*pair, k_tag_oid) : std::nullopt;
    if (!oid) {
      return malformed();
    }
    if (oid->size() == k_oid_prefix.size() + 1 && oid->back() == k_ppid &&
        std::ranges::equal(oid->first(k_oid_prefix.size()), k_oid_prefix)) {
      const auto value = take(*pair, k_tag_octets);
      if (found || !value || value->size() != k_ppid_size || !pair->empty()) {
        return malformed();
      }
      found = base::to_bytes(*value);
    }
  }
  if (!found) {
    return malformed();
  }
  return *std::move(found);
}

Bytes make_sgx_extension(ByteView ppid, ByteView fmspc) {
  Bytes entries = entry(k_ppid, ppid);
  base::append(entries, entry(k_fmspc, fmspc));
  return element(k_tag_sequence, entries);
}

}  // namespace dstack::attest
