#include "base/bytes.h"

#include <gtest/gtest.h>

#include "base/format.h"

using namespace dstack::base;

TEST(Hex, RoundTripsAndRefusesJunk) {
  EXPECT_EQ(to_hex(Bytes{0x00, 0xab, 0xff}), "00abff");
  EXPECT_EQ(from_hex("00ABff"), (Bytes{0x00, 0xab, 0xff}));
  EXPECT_FALSE(from_hex("0"));
  EXPECT_FALSE(from_hex("0x00"));
  EXPECT_FALSE(from_hex("zz"));
}

TEST(Hex, NormalisationTrimsDropsOnePrefixAndLowers) {
  EXPECT_EQ(normalize_hex("  0xABcd\n"), "abcd");
  EXPECT_EQ(normalize_hex("0X0xab"), "0xab");
  EXPECT_EQ(normalize_hex("0x"), "");
  EXPECT_EQ(normalize_hex("nothex"), "nothex");
}

TEST(NormalizeHex, WithoutACopyItSaysTheSame) {
  const std::string plain = "00112233445566778899aabbccddeeff";
  std::string storage;
  EXPECT_EQ(normalize_hex(plain, storage).data(), plain.data());
  for (const auto* around : {"", "0x", "0X", " ", "\t0x0x", "F", "\xc3"}) {
    for (const auto& text : {around + plain, plain + around, plain.substr(0, 17) + around + plain}) {
      EXPECT_EQ(normalize_hex(text, storage), normalize_hex(text)) << text;
    }
  }
  EXPECT_EQ(normalize_hex("", storage), "");
  EXPECT_EQ(normalize_hex("0x", storage), "");
}

TEST(Base64, MatchesRfc4648Vectors) {
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, coded] : vectors) {
    EXPECT_EQ(to_base64(as_bytes(plain)), coded);
    EXPECT_EQ(from_base64(coded), to_bytes(std::string_view(plain)));
  }
  EXPECT_FALSE(from_base64("Zg="));
  EXPECT_FALSE(from_base64("Z=g="));
  EXPECT_FALSE(from_base64("Zg==Zg=="));
}

TEST(ConstantTime, ComparesWhole) {
  EXPECT_TRUE(equal_constant_time(as_bytes("abc"), as_bytes("abc")));
  EXPECT_FALSE(equal_constant_time(as_bytes("abc"), as_bytes("abd")));
  EXPECT_FALSE(equal_constant_time(as_bytes("abc"), as_bytes("ab")));
}

TEST(Format, WorksWithoutTheSharedLibrary) {
  EXPECT_EQ(format("{:>4}|{:.2f}|{}", 7, 1.5, "x"), "   7|1.50|x");
}
