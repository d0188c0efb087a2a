#include "base/dm_verity.h"

#include <gtest/gtest.h>

#include <cstring>

namespace dstack::base {
namespace {

Bytes superblock(std::uint64_t blocks, std::string_view algorithm = "sha256", std::uint16_t salt_size = 32) {
  Bytes out(k_verity_superblock_size, 0);
  std::memcpy(out.data(), "verity\0\0", 8);
  out[8] = 1;
  out[12] = 1;
  std::memcpy(out.data() + 32, algorithm.data(), algorithm.size());
  out[65] = 0x10;
  out[69] = 0x10;
  for (int i = 0; i < 8; ++i) {
    out[72 + static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(blocks >> (8 * i));
  }
  out[80] = static_cast<std::uint8_t>(salt_size);
  out[81] = static_cast<std::uint8_t>(salt_size >> 8);
  return out;
}

TEST(DmVerity, ReadsASuperblockAndMakesTheTable) {
  const auto parsed = parse_verity_superblock(superblock(25));
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->data_blocks, 25u);
  EXPECT_EQ(parsed->salt, Bytes(32, 0));
  const VerityOpen what{"root", "/dev/vda", "/dev/vda", 102400, std::string(64, 'a')};
  EXPECT_EQ(verity_table(what, *parsed).value(), "1 /dev/vda /dev/vda 4096 4096 25 26 sha256 " +
                                                     std::string(64, 'a') + " " + std::string(64, '0'));
}

TEST(DmVerity, WritesADashForNoSalt) {
  const auto parsed = parse_verity_superblock(superblock(1, "sha256", 0)).value();
  const auto table = verity_table({"v", "/dev/a", "/dev/b", 0, std::string(64, 'b')}, parsed).value();
  EXPECT_EQ(table, "1 /dev/a /dev/b 4096 4096 1 1 sha256 " + std::string(64, 'b') + " -");
}

TEST(DmVerity, TheRootHashAloneSaysWhichHashItIs) {
  const VerityOpen sha{"r", "/dev/a", "/dev/a", 4096, std::string(64, 'b')};
  const VerityOpen blake{"r", "/dev/a", "/dev/a", 4096, std::string(128, 'b')};
  const auto of_sha = parse_verity_superblock(superblock(1, "sha256", 0)).value();
  const auto of_blake = parse_verity_superblock(superblock(1, "blake2b-512", 0)).value();
  EXPECT_EQ(verity_table(blake, of_blake).value(),
            "1 /dev/a /dev/a 4096 4096 1 2 blake2b-512 " + std::string(128, 'b') + " -");
  EXPECT_TRUE(verity_table(sha, of_sha));
  EXPECT_FALSE(verity_table(sha, of_blake));
  EXPECT_FALSE(verity_table(blake, of_sha));
}

TEST(DmVerity, RefusesOtherSuperblocks) {
  EXPECT_FALSE(parse_verity_superblock(Bytes(511)).has_value());
  EXPECT_FALSE(parse_verity_superblock(Bytes(512)).has_value());
  EXPECT_FALSE(parse_verity_superblock(superblock(0)).has_value());
  EXPECT_FALSE(parse_verity_superblock(superblock(~0ULL)).has_value());
  EXPECT_FALSE(parse_verity_superblock(superblock(5, "sha1")).has_value());
  EXPECT_FALSE(parse_verity_superblock(superblock(5, "sha256", 257)).has_value());
}

TEST(DmVerity, RefusesBadRootsAndOffsets) {
  const auto parsed = parse_verity_superblock(superblock(5)).value();
  EXPECT_FALSE(verity_table({"v", "/dev/a", "/dev/a", 0, "abcd"}, parsed).has_value());
  EXPECT_FALSE(verity_table({"v", "/dev/a", "/dev/a", 0, std::string(64, 'x')}, parsed).has_value());
  EXPECT_FALSE(verity_table({"v", "/dev/a", "/dev/a", 17, std::string(64, 'a')}, parsed).has_value());
}

}  // namespace
}  // namespace dstack::base
