#include "app/strict_json.h"

#include <nlohmann/json.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace dstack;
using app::parse_json_strict;
using testing::HasSubstr;

TEST(StrictJson, KeepsOrderAndValues) {
  const std::string text = R"({"z":1,"a":[true,null,-2,3.5,"x",{"k":{}}],"m":{"y":[],"b":""}})";
  auto value = parse_json_strict(text);
  ASSERT_TRUE(value) << value.error().what();
  EXPECT_EQ(value->dump(), text);
}

TEST(StrictJson, ScalarsAtTheTop) {
  EXPECT_EQ(parse_json_strict("5")->get<int>(), 5);
  EXPECT_EQ(parse_json_strict(" \"a\" ")->get<std::string>(), "a");
}

TEST(StrictJson, RefusesAKeyTwiceInSmallAndLargeObjects) {
  EXPECT_THAT(parse_json_strict(R"({"a":1,"b":{"a":1},"a":2})").error().what(),
              HasSubstr("\"a\" appears twice"));
  std::string large = "{";
  for (int i = 0; i < 1000; ++i) {
    large += "\"k" + std::to_string(i) + "\":0,";
  }
  EXPECT_TRUE(parse_json_strict(large + "\"end\":0}"));
  EXPECT_FALSE(parse_json_strict(large + "\"k0\":0}"));
  EXPECT_FALSE(parse_json_strict(large + "\"k999\":0}"));
  // Escapes make the same key.
  EXPECT_FALSE(parse_json_strict(R"({"a":1,"\u0061":2})"));
}

TEST(StrictJson, RefusesJunk) {
  for (const char* bad : {"", "{", "{}x", "{} {}", "{'a':1}", "{\"a\":01}", "[1,]", "nul", "{\"a\"}", "NaN",
                          "\"\xff\"", "// c\n1", "\xef\xbb\xbf{"}) {
    auto value = parse_json_strict(bad);
    EXPECT_FALSE(value) << bad;
    if (!value) {
      EXPECT_EQ(value.error().code, base::Code::parse);
    }
  }
}

TEST(StrictJson, Limits) {
  EXPECT_TRUE(parse_json_strict("[[[]]]", {.max_depth = 3}));
  EXPECT_FALSE(parse_json_strict("[[[[]]]]", {.max_depth = 3}));
  EXPECT_EQ(parse_json_strict("[1,2]", {.max_bytes = 4}).error().code, base::Code::too_large);
  EXPECT_FALSE(parse_json_strict(std::string(1'000'000, '[')));
}
