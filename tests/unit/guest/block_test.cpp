#include "guest/block.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fs.h"
#include "base/process.h"
#include "unit/guest/temp_dir.h"

namespace dstack::guest {
namespace {

using testing::Optional;

std::string image(const TempDir& dir, const char* name, std::uint64_t size) {
  const auto file = dir.write(name, "");
  std::filesystem::resize_file(file, size);
  return file.string();
}

TEST(FatLabel, IsReadFromRealFileSystems) {
  if (!base::find_tool("mkfs.vfat")) {
    GTEST_SKIP() << "mkfs.vfat is not installed";
  }
  const TempDir dir;
  for (const char* bits : {"12", "16", "32"}) {
    const auto file = image(dir, bits, 40 * 1024 * 1024);
    base::Command command;
    command.argv = {"mkfs.vfat", "-n", "DSTACKSHR", "-F", bits, file};
    ASSERT_TRUE(base::run_checked(command).has_value()) << bits;
    EXPECT_THAT(fat_label(read_head(file, 512).value()), Optional(std::string("DSTACKSHR"))) << bits;
  }
}

TEST(FatLabel, IgnoresOtherSectors) {
  EXPECT_EQ(fat_label(base::Bytes{}), std::nullopt);
  EXPECT_EQ(fat_label(base::Bytes(511, 0)), std::nullopt);
  base::Bytes sector(512, 0);
  EXPECT_EQ(fat_label(sector), std::nullopt);
  sector[510] = 0x55;
  sector[511] = 0xaa;  // a partition table
  EXPECT_EQ(fat_label(sector), std::nullopt);
}

TEST(ExtInfo, ReadsLabelAndState) {
  if (!base::find_tool("mkfs.ext4")) {
    GTEST_SKIP() << "mkfs.ext4 is not installed";
  }
  const TempDir dir;
  const auto file = image(dir, "ext", 8 * 1024 * 1024);
  base::Command command;
  command.argv = {"mkfs.ext4", "-q", "-F", "-L", "dstack-data", file};
  ASSERT_TRUE(base::run_checked(command).has_value());
  auto head = read_head(file, 4096).value();
  const auto info = ext_info(head);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->label, "dstack-data");
  EXPECT_TRUE(info->clean);
  head[1024 + 58] = 3;  // an error was recorded
  EXPECT_FALSE(ext_info(head)->clean);
}

TEST(ExtInfo, IgnoresShortAndBlankHeads) {
  EXPECT_FALSE(ext_info(base::Bytes(2047, 0)).has_value());
  EXPECT_FALSE(ext_info(base::Bytes(4096, 0)).has_value());
}

base::Bytes metadata(std::string_view magic, std::uint8_t kind) {
  base::Bytes block = base::to_bytes(magic);
  block.resize(16, 0);
  block.insert(block.end(), {kind, 0, 0, 0});
  block.insert(block.end(), 32, 0xab);
  block.resize(4096, 0);
  return block;
}

TEST(VolumeRoot, IsReadFromTheMetadataBlock) {
  std::string root;
  for (int i = 0; i < 32; ++i) {
    root += "ab";
  }
  EXPECT_THAT(volume_root(metadata("DSTACK_VOLUME", 1)), Optional(root));
}

TEST(VolumeRoot, IgnoresOtherBlocks) {
  EXPECT_EQ(volume_root({}), std::nullopt);
  EXPECT_EQ(volume_root(base::Bytes(51, 0)), std::nullopt);
  EXPECT_EQ(volume_root(base::Bytes(4096, 0)), std::nullopt);
  EXPECT_EQ(volume_root(metadata("DSTACK_VOLUMES", 1)), std::nullopt);
  EXPECT_EQ(volume_root(metadata("DSTACK_VOLUME", 2)), std::nullopt);
}

TEST(VirtioDisks, AreListedWithTheirPartitions) {
  const TempDir dir;
  dir.write("sys/block/vdb/size", "20480\n");
  dir.write("sys/block/vdb/ro", "0\n");
  dir.write("sys/block/vdc/size", "8\n");
  dir.write("sys/block/vdc/ro", "1\n");
  dir.write("sys/block/vdc/vdc1/partition", "1\n");
  dir.write("sys/block/vdc/vdc2/partition", "2\n");
  dir.write("sys/block/sda/size", "8\n");
  const auto disks = virtio_disks(dir.path()).value();
  ASSERT_EQ(disks.size(), 2u);
  EXPECT_EQ(disks[0].name, "vdb");
  EXPECT_EQ(disks[0].size, 20480u * 512);
  EXPECT_FALSE(disks[0].read_only);
  EXPECT_TRUE(disks[1].read_only);
  EXPECT_THAT(disks[1].partitions, testing::ElementsAre(dir / "dev/vdc1", dir / "dev/vdc2"));
}

TEST(ReadHead, GivesLessOfASmallerDevice) {
  const TempDir dir;
  EXPECT_EQ(read_head(dir.write("a", "12345"), 512).value().size(), 5u);
  EXPECT_FALSE(read_head(dir / "missing", 512).has_value());
}

}  // namespace
}  // namespace dstack::guest
