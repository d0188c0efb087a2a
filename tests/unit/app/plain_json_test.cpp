#include "app/plain_json.h"

#include <gtest/gtest.h>

#include <string>

using dstack::app::PlainJson;

namespace {

bool plain(const std::string& text, int depth = 8) {
  PlainJson json(text, depth);
  return json.skip() && json.at_end();
}

}  // namespace

TEST(PlainJson, TakesWhatIsPlain) {
  for (const char* text : {"{}", "[]", R"("")", "0", "7", "123456789012345678", "true", "false", "null",
                           R"( { "a" : [ 1 , "b" , { "c" : null } ] , "d" : { } } )", "\t\r\n[\n]\n"}) {
    EXPECT_TRUE(plain(text)) << text;
  }
}

TEST(PlainJson, LeavesEverythingElseToTheStrictReader) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "\"",
                           "[1,]",
                           "[,1]",
                           "{,}",
                           R"({"a"})",
                           R"({"a":})",
                           R"({"a":1,})",
                           R"({a:1})",
                           R"({"a":1 "b":2})",
                           "[1 2]",
                           "tru",
                           "nul",
                           "01",
                           "-1",
                           "1.5",
                           "1e3",
                           "1234567890123456789",
                           R"("\n")",
                           R"("\u0041")",
                           "\"\x01\"",
                           "\"\x1f\"",
                           "\"\x7f\"",
                           "\"\xc3\xa4\"",
                           "\"\xff\"",
                           R"({"a":1,"a":2})",
                           R"({"x":{"a":1,"a":2}})",
                           "[] []",
                           "[]x",
                           "'a'",
                           "\xef\xbb\xbf{}"}) {
    EXPECT_FALSE(plain(text)) << text;
  }
}

TEST(PlainJson, ASpecialByteIsSeenAtEveryPlaceOfAString) {
  for (const char special : {'\\', '\x00', '\x0a', '\x1f', '\x7f', '\x80', '\xff'}) {
    for (std::size_t length = 1; length <= 40; ++length) {
      for (std::size_t at = 0; at < length; ++at) {
        for (const char rest : {'a', ' ', '~', '!', '#', '[', ']'}) {
          std::string text(length, rest);
          ASSERT_TRUE(plain('"' + text + '"'));
          text[at] = special;
          ASSERT_FALSE(plain('"' + text + '"')) << length << " " << at << " " << static_cast<int>(special);
        }
      }
    }
  }
}

TEST(PlainJson, AStringEndsAtItsQuote) {
  for (std::size_t length = 0; length < 40; ++length) {
    const std::string inside(length, 'x');
    const std::string text = '"' + inside + "\",\"next\"";
    PlainJson json(text, 1);
    EXPECT_EQ(json.string(), inside);
    EXPECT_FALSE(json.at_end());
  }
}

TEST(PlainJson, DepthIsLimited) {
  EXPECT_TRUE(plain("[[[]]]", 3));
  EXPECT_FALSE(plain("[[[]]]", 2));
  EXPECT_TRUE(plain("[[],[[]],[]]", 3));
  EXPECT_FALSE(plain(std::string(100'000, '['), 32));
}

TEST(PlainJson, ManyKeysOnlyWhereTheCallerChecksThem) {
  std::string text = "{";
  for (int i = 0; i < 17; ++i) {
    text += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
  }
  text += "}";
  EXPECT_FALSE(plain(text));
  PlainJson json(text, 1);
  int members = 0;
  EXPECT_TRUE(json.object(
      [&](std::string_view) {
        ++members;
        return json.number().has_value();
      },
      /*caller_checks_keys=*/true));
  EXPECT_EQ(members, 17);
}
