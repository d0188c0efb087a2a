#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

using dstack::base::is_utf8;

TEST(Utf8, WellFormed) {
  for (const char* good : {"", "/opt/dstack", "/opt/schön", "\u20ac", "\U0001F600", "\U0010FFFF", "\u0080",
                           "\u07ff", "\u0800", "\ud7ff", "\ue000"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  EXPECT_TRUE(is_utf8(std::string("a\0b", 3)));
}

TEST(Utf8, Malformed) {
  for (const char* bad : {"\xff", "\x80", "a\xc3", "\xc3(", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\xaf",
                          "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xe2\x82", "\xfe"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}
