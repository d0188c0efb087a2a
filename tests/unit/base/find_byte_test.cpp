#include "base/find_byte.h"

#include <gtest/gtest.h>

#include <string>

namespace dstack::base {
namespace {

const auto is_comma = [](auto c) { return c == ','; };

TEST(FindByte, FindsTheFirstAtEveryPositionOfEveryLength) {
  for (std::size_t size = 0; size < 70; ++size) {
    EXPECT_EQ(find_byte(std::string(size, 'x'), 0, is_comma), size);
    for (std::size_t at = 0; at < size; ++at) {
      std::string text(size, 'x');
      text[at] = ',';
      text[size - 1] = ',';
      EXPECT_EQ(find_byte(text, 0, is_comma), at) << size;
      EXPECT_EQ(find_byte(text, at, is_comma), at) << size;
      EXPECT_EQ(find_byte(text, at + 1, is_comma), at + 1 < size ? size - 1 : size) << size;
    }
  }
}

TEST(FindByte, SeesAllValuesAlike) {
  const auto plain = [](auto c) { return c < ' ' || c > '~'; };
  for (const std::size_t size : {1, 16, 31, 64}) {
    for (int value = 0; value < 256; ++value) {
      const std::string text(size, static_cast<char>(value));
      EXPECT_EQ(find_byte(text, 0, plain), value >= ' ' && value <= '~' ? size : 0) << value;
    }
  }
}

}  // namespace
}  // namespace dstack::base
