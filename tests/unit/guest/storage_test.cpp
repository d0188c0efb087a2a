#include "guest/storage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include "unit/guest/fakes.h"
#include "unit/guest/temp_dir.h"

namespace dstack::guest {
namespace {

using base::Code;
using testing::HasSubstr;

base::Bytes ext_head(std::string_view label, std::uint8_t state) {
  base::Bytes head(64 * 1024, 0);
  head[1024 + 56] = 0x53;
  head[1024 + 57] = 0xef;
  head[1024 + 58] = state;
  std::copy(label.begin(), label.end(), head.begin() + 1024 + 120);
  return head;
}

std::string fat_sector(std::string_view label) {
  std::string sector(512, '\0');
  sector.replace(82, 5, "FAT32");
  sector.replace(71, label.size(), label);
  sector[510] = '\x55';
  sector[511] = '\xaa';
  return sector;
}

std::string volume_block(std::uint8_t byte) {
  std::string block = "DSTACK_VOLUME";
  block.resize(16, '\0');
  block += std::string("\1\0\0\0", 4) + std::string(32, static_cast<char>(byte));
  block.resize(4096, '\0');
  return block;
}

const BlockDevice k_disk{"vdb", "/dev/vdb", false, 1 << 20, {}};

TEST(DataDisk, OnlyBlankOnesAndOursAreTouched) {
  EXPECT_EQ(judge_data_disk(k_disk, base::Bytes(64 * 1024, 0)).value(), DiskState::blank);
  EXPECT_EQ(judge_data_disk(k_disk, ext_head("dstack-data", 1)).value(), DiskState::ours);

  auto other = base::Bytes(64 * 1024, 0);
  other[5000] = 1;
  auto read_only = k_disk;
  read_only.read_only = true;
  auto partitioned = k_disk;
  partitioned.partitions.push_back("/dev/vdb1");
  const base::Result<DiskState> refused[] = {
      judge_data_disk(k_disk, other),
      judge_data_disk(k_disk, ext_head("photos", 1)),
      judge_data_disk(k_disk, base::Bytes(4096, 0)),
      judge_data_disk(read_only, base::Bytes(64 * 1024, 0)),
      judge_data_disk(partitioned, base::Bytes(64 * 1024, 0)),
  };
  for (const auto& result : refused) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, Code::data_disk);
    EXPECT_THAT(result.error().message, HasSubstr("the data disk vdb"));
  }
}

class DataDiskMount : public testing::Test {
 protected:
  base::Result<bool> mount(const base::Bytes& head) {
    auto disk = k_disk;
    disk.node = m_dir.write("vdb", base::as_text(head));
    return mount_data_disk(disk, m_dir / "data", m_mounter, m_runner);
  }
  TempDir m_dir;
  FakeMounter m_mounter;
  FakeRunner m_runner;
};

TEST_F(DataDiskMount, InitialisesABlankDisk) {
  EXPECT_TRUE(mount(base::Bytes(64 * 1024, 0)).value());
  EXPECT_TRUE(m_runner.ran("mkfs.ext4"));
  ASSERT_EQ(m_mounter.mounts.size(), 1u);
  EXPECT_EQ(m_mounter.mounts[0].type, "ext4");
  EXPECT_THAT(m_mounter.mounts[0].data, HasSubstr("nodelalloc"));
}

TEST_F(DataDiskMount, MountsACleanDiskWithoutATool) {
  EXPECT_FALSE(mount(ext_head("dstack-data", 1)).value());
  EXPECT_TRUE(m_runner.commands.empty());
}

TEST_F(DataDiskMount, ChecksADirtyDisk) {
  m_runner.on_run = [](const base::Command&) { return base::Output{1, "", ""}; };  // corrected
  EXPECT_TRUE(mount(ext_head("dstack-data", 3)).has_value());
  EXPECT_TRUE(m_runner.ran("e2fsck"));
}

TEST_F(DataDiskMount, DoesNotMountADamagedDisk) {
  m_runner.on_run = [](const base::Command&) { return base::Output{4, "", "UNEXPECTED INCONSISTENCY\n"}; };
  const auto mounted = mount(ext_head("dstack-data", 3));
  ASSERT_FALSE(mounted.has_value());
  EXPECT_EQ(mounted.error().what(), "the data disk is damaged: UNEXPECTED INCONSISTENCY");
  EXPECT_TRUE(m_mounter.mounts.empty());
}

TEST_F(DataDiskMount, NeverFormatsSomethingElse) {
  auto head = base::Bytes(64 * 1024, 0);
  head[0] = 'X';
  EXPECT_FALSE(mount(head).has_value());
  EXPECT_TRUE(m_runner.commands.empty());
  EXPECT_TRUE(m_mounter.mounts.empty());
}

TEST(HostShareDisk, IsFoundByItsLabelAmongOthers) {
  const TempDir dir;
  std::vector<BlockDevice> disks{
      {"vda", dir.write("vda", "hsqs"), true, 4, {}},
      {"vdb", dir.write("vdb", std::string(512, '\0')), false, 4, {}},
      {"vdc", dir.write("vdc", fat_sector("OTHER      ")), true, 4, {}},
      {"vdd", dir.write("vdd", fat_sector("DSTACKSHR  ")), true, 4, {}},
  };
  EXPECT_EQ(find_host_share(disks).value(), dir / "vdd");
  disks.pop_back();
  const auto missing = find_host_share(disks);
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().message, "no disk has the label DSTACKSHR");
}

TEST(HostShareDisk, MayBeAPartition) {
  const TempDir dir;
  const std::vector<BlockDevice> disks{
      {"vdb", dir.write("vdb", "x"), true, 4, {dir.write("vdb1", fat_sector("DSTACKSHR  "))}}};
  EXPECT_EQ(find_host_share(disks).value(), dir / "vdb1");
}

TEST(DataDiskDevice, IsTheSecondVirtioDisk) {
  EXPECT_EQ(find_data_disk({{"vda", "/dev/vda", true, 1, {}}, k_disk}).value().name, "vdb");
  EXPECT_FALSE(find_data_disk({{"vda", "/dev/vda", true, 1, {}}}).has_value());
}

TEST(Volumes, AreFoundByTheRootOfTheManifest) {
  const TempDir dir;
  const auto device = [&](const std::string& name, std::uint8_t byte) {
    return BlockDevice{name,
                       dir / name,
                       true,
                       1,
                       {dir.write(name + "1", volume_block(byte)), dir / (name + "2"), dir / (name + "3")}};
  };
  const std::vector<BlockDevice> disks{k_disk, device("vdc", 0xcc), device("vdd", 0xdd)};
  std::string root;
  for (int i = 0; i < 32; ++i) {
    root += "dd";
  }
  const auto found = find_volume(disks, {"images.img", root, "/run/images"}).value();
  EXPECT_EQ(found.data, dir / "vdd2");
  EXPECT_EQ(found.hash, dir / "vdd3");

  const auto missing = find_volume(disks, {"images.img", std::string(64, 'e'), "/run/images"});
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, Code::guest_volume);
  EXPECT_THAT(missing.error().message, HasSubstr("the volume images.img"));
}

TEST(Volumes, MissingOnesEndTheBootWithoutAMount) {
  FakeMounter mounter;
  const auto mounted =
      mount_volumes({k_disk}, {{"images.img", std::string(64, 'e'), "/run/images"}}, mounter);
  EXPECT_FALSE(mounted.has_value());
  EXPECT_TRUE(mounter.mounts.empty());
}

}  // namespace
}  // namespace dstack::guest
