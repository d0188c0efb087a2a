// Searches bytes many at a time.
#pragma once

#include <experimental/simd>
#include <string_view>

namespace dstack::base {

// The first position from `at` on whose byte is_wanted() accepts; text.size() when there is none. is_wanted
// is called with simd values of char, signed or not, and returns a mask.
template <class IsWanted>
std::size_t find_byte(std::string_view text, std::size_t at, IsWanted is_wanted) {
  namespace simd = std::experimental;
  using Many = simd::native_simd<char>;
  using One = simd::simd<char, simd::simd_abi::scalar>;
  for (; text.size() - at >= Many::size(); at += Many::size()) {
    const auto found = is_wanted(Many(text.data() + at, simd::element_aligned));
    if (simd::any_of(found)) {
      return at + static_cast<std::size_t>(simd::find_first_set(found));
    }
  }
  while (at < text.size() && !simd::any_of(is_wanted(One(text[at])))) {
    ++at;
  }
  return at;
}

}  // namespace dstack::base
