#include "host/volume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "base/fs.h"
#include "base/process.h"
#include "crypto/hash.h"

namespace dstack::host {
namespace {

using base::Code;

const std::string k_root(64, 'a');

std::uint64_t number(base::ByteView bytes, std::size_t offset, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = size; i-- > 0;) {
    value = value << 8 | bytes[offset + i];
  }
  return value;
}

class VolumeTest : public testing::Test {
 protected:
  VolumeTest() {
    std::string name = "/tmp/volume-test-XXXXXX";
    m_root = ::mkdtemp(name.data());
  }
  ~VolumeTest() override { (void)base::remove_tree(m_root); }
  static void write(const fs::path& path, std::string_view text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  void write_index(std::string_view text) { write(m_root / "volumes/index.json", text); }

  fs::path m_root;
};

TEST(VolumeLayout, PlacesThreePartitions) {
  const auto layout = lay_out_volume(k_root, 4096 * 300, 4096 * 5);
  EXPECT_EQ(layout.data_lba, 4096u);
  EXPECT_EQ(layout.data_sectors, 2400u);
  EXPECT_EQ(layout.hash_lba, 8192u);
  EXPECT_EQ(layout.hash_sectors, 40u);
  EXPECT_EQ(layout.total_sectors, 10240u);  // 8231 + 1 + 33, up to the next 1 MiB
  EXPECT_EQ(layout.head.size(), (2048u + 8u) * 512u);
  EXPECT_EQ(layout.tail.size(), 33u * 512u);
}

TEST(VolumeLayout, WritesAProtectiveMbr) {
  const auto layout = lay_out_volume(k_root, 4096, 4096);
  const base::ByteView head(layout.head);
  EXPECT_EQ(head[450], 0xee);
  EXPECT_EQ(number(head, 454, 4), 1u);
  EXPECT_EQ(number(head, 458, 4), layout.total_sectors - 1);
  EXPECT_EQ(number(head, 510, 2), 0xaa55u);
}

TEST(VolumeLayout, WritesBothTables) {
  const auto layout = lay_out_volume(k_root, 4096, 4096);
  const base::ByteView head(layout.head);
  const base::ByteView primary = head.subspan(512, 512);
  const base::ByteView secondary = base::ByteView(layout.tail).last(512);
  for (const auto& header : {primary, secondary}) {
    EXPECT_EQ(base::as_text(header.first(8)), "EFI PART");
    EXPECT_EQ(number(header, 8, 4), 0x10000u);
    EXPECT_EQ(number(header, 40, 8), 34u);
    EXPECT_EQ(number(header, 48, 8), layout.total_sectors - 34);
    EXPECT_EQ(number(header, 80, 4), 128u);
    EXPECT_EQ(number(header, 84, 4), 128u);
  }
  EXPECT_EQ(number(primary, 24, 8), 1u);
  EXPECT_EQ(number(primary, 32, 8), layout.total_sectors - 1);
  EXPECT_EQ(number(primary, 72, 8), 2u);
  EXPECT_EQ(number(secondary, 24, 8), layout.total_sectors - 1);
  EXPECT_EQ(number(secondary, 32, 8), 1u);
  EXPECT_EQ(number(secondary, 72, 8), layout.total_sectors - 33);
  EXPECT_EQ(base::to_bytes(head.subspan(1024, 128 * 128)),
            base::to_bytes(base::ByteView(layout.tail).first(128 * 128)));
  EXPECT_EQ(number(primary, 88, 4), number(secondary, 88, 4));
}

TEST(VolumeLayout, NamesAndIdentifiesPartitions) {
  const auto layout = lay_out_volume(k_root, 4096, 4096);
  const base::ByteView entry = base::ByteView(layout.head).subspan(1024 + 128, 128);
  // 0FC63DAF-8483-4772-8E79-3D69D8477DE4 as it stands on disk.
  EXPECT_EQ(base::to_hex(entry.first(16)), "af3dc60f838472478e793d69d8477de4");
  EXPECT_EQ(number(entry, 32, 8), layout.data_lba);
  EXPECT_EQ(number(entry, 40, 8), layout.data_lba + layout.data_sectors - 1);
  EXPECT_EQ(base::to_text(entry.subspan(56, 8)), std::string("d\0s\0t\0a\0", 8));

  // 16 bytes of sha256 over both parts with their lengths, shaped as version 4; the first three fields
  // little-endian.
  base::Bytes input{18, 0, 0, 0, 0, 0, 0, 0};
  base::append(input, "dstack-verity-data");
  base::append(input, base::Bytes{64, 0, 0, 0, 0, 0, 0, 0});
  base::append(input, k_root);
  const auto hash = crypto::sha256(input);
  EXPECT_EQ(entry[16], hash[3]);
  EXPECT_EQ(entry[19], hash[0]);
  EXPECT_EQ(entry[16 + 7], (hash[6] & 0x0f) | 0x40);
  EXPECT_EQ(entry[16 + 8], (hash[8] & 0x3f) | 0x80);
  EXPECT_EQ(entry[16 + 15], hash[15]);
}

TEST(VolumeLayout, WritesTheMetadataBlock) {
  const auto layout = lay_out_volume(k_root, 4096, 4096);
  const base::ByteView block = base::ByteView(layout.head).subspan(2048 * 512, 4096);
  EXPECT_EQ(base::as_text(block.first(16)), std::string_view("DSTACK_VOLUME\0\0\0", 16));
  EXPECT_EQ(number(block, 16, 4), 1u);
  EXPECT_EQ(base::to_hex(block.subspan(20, 32)), k_root);
  EXPECT_EQ(number(block, 52, 8), 0u);
}

TEST_F(VolumeTest, BuildsTheSameBytesFromTheSameTree) {
  if (!base::find_tool("mksquashfs") || !base::find_tool("veritysetup")) {
    GTEST_SKIP() << "needs squashfs-tools and cryptsetup-bin";
  }
  write(m_root / "tree/a/file", std::string(10000, 'x'));
  const auto first = build_volume(m_root / "tree", m_root / "one.img", VolumeCompression::lz4);
  ASSERT_TRUE(first.has_value()) << first.error().what();
  const auto second = build_volume(m_root / "tree", m_root / "two.img", VolumeCompression::lz4);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(first->verity_root, second->verity_root);
  EXPECT_EQ(base::read_file(m_root / "one.img").value(), base::read_file(m_root / "two.img").value());
  EXPECT_EQ(first->data_size % 4096, 0u);
  EXPECT_EQ(first->volume_size, fs::file_size(m_root / "one.img"));
  EXPECT_EQ(read_volume_root(m_root / "one.img").value(), first->verity_root);
  // The data partition begins with the squashfs, and nothing but the results is left behind.
  EXPECT_EQ(base::read_file(m_root / "one.img").value().substr(4096 * 512, 4), "hsqs");
  EXPECT_EQ(std::distance(fs::directory_iterator(m_root), fs::directory_iterator()), 3);

  write(m_root / "tree/a/file", "changed");
  EXPECT_NE(build_volume(m_root / "tree", m_root / "one.img")->verity_root, first->verity_root);
}

TEST_F(VolumeTest, BuildsFromAFileSystemImage) {
  if (!base::find_tool("veritysetup")) {
    GTEST_SKIP() << "needs cryptsetup-bin";
  }
  write(m_root / "fs", std::string(5000, 'y'));
  const auto built = build_volume_from_image(m_root / "fs", m_root / "v.img");
  ASSERT_TRUE(built.has_value()) << built.error().what();
  EXPECT_EQ(built->data_size, 8192u);
  write(m_root / "empty", "");
  EXPECT_FALSE(build_volume_from_image(m_root / "empty", m_root / "w.img").has_value());
  EXPECT_FALSE(fs::exists(m_root / "w.img"));
}

TEST_F(VolumeTest, RefusesOtherFiles) {
  write(m_root / "x", std::string(2 << 20, '\0'));
  EXPECT_EQ(read_volume_root(m_root / "x").error().code, Code::volume_corrupt);
  EXPECT_EQ(read_volume_root(m_root / "none").error().code, Code::not_found);
}

TEST(VerityOutput, FindsTheRoot) {
  EXPECT_EQ(root_hash_in("UUID: x\nRoot hash:      \t" + k_root + "\n").value(), k_root);
  EXPECT_FALSE(root_hash_in("Root hash: 12\n").has_value());
  EXPECT_FALSE(root_hash_in("").has_value());
}

TEST_F(VolumeTest, AnEmptyStateHasNoVolumes) {
  const auto index = VolumeIndex::load(m_root);
  ASSERT_TRUE(index.has_value());
  EXPECT_TRUE(index->entries().empty());
  EXPECT_EQ(index->find_by_image("nginx"), nullptr);
}

TEST_F(VolumeTest, FindsByNameAndImage) {
  write_index(R"({"volumes":[{"name":"a","file":"a.img","verity_root":")" + k_root +
              R"(","images":["localhost/x:latest"]},{"name":"b","file":"b.img","verity_root":")" +
              std::string(64, 'b') + R"(","images":["localhost/x:latest","docker.io/library/nginx:1"]}]})");
  const auto index = VolumeIndex::load(m_root);
  ASSERT_TRUE(index.has_value()) << index.error().what();
  EXPECT_EQ(index->find("a")->verity_root, k_root);
  EXPECT_EQ(index->find_by_image("localhost/x")->name, "b") << "the last one added wins";
  EXPECT_EQ(index->find_by_image("nginx:1")->name, "b");
  EXPECT_EQ(index->find_by_image("nginx"), nullptr);
  EXPECT_EQ(index->path_of(*index->find("a")), m_root / "volumes/a.img");
}

TEST_F(VolumeTest, RefusesAMalformedIndex) {
  for (const std::string& text :
       {std::string("{"), std::string("[]"), std::string(R"({"volumes":[1]})"),
        std::string(R"({"volumes":[{"name":"a","file":"../a","verity_root":")") + k_root +
            R"(","images":[]}]})",
        std::string(R"({"volumes":[{"name":"a","file":"a","verity_root":"12","images":[]}]})"),
        std::string(R"({"volumes":[{"name":"a","file":"a","verity_root":")") + k_root +
            R"(","images":["a b"]}]})"}) {
    write_index(text);
    const auto index = VolumeIndex::load(m_root);
    ASSERT_FALSE(index.has_value()) << text;
    EXPECT_EQ(index.error().code, Code::parse);
  }
}

TEST_F(VolumeTest, RemovesFileAndEntry) {
  write_index(R"({"volumes":[{"name":"a","file":"a.img","verity_root":")" + k_root + R"(","images":[]}]})");
  write(m_root / "volumes/a.img", "x");
  EXPECT_EQ(remove_volume(m_root, "b").error().code, Code::not_found);
  EXPECT_EQ(remove_volume(m_root, "../a").error().code, Code::invalid_argument);
  ASSERT_TRUE(remove_volume(m_root, "a").has_value());
  EXPECT_FALSE(fs::exists(m_root / "volumes/a.img"));
  EXPECT_TRUE(VolumeIndex::load(m_root)->entries().empty());
  EXPECT_EQ(remove_volume(m_root / "nowhere", "a").error().code, Code::not_found);
}

TEST(ImageReference, IsNormalised) {
  EXPECT_EQ(normalize_image_reference("nginx"), "docker.io/library/nginx:latest");
  EXPECT_EQ(normalize_image_reference("nginx:1.2"), "docker.io/library/nginx:1.2");
  EXPECT_EQ(normalize_image_reference("a/b"), "docker.io/a/b:latest");
  EXPECT_EQ(normalize_image_reference("localhost/x"), "localhost/x:latest");
  EXPECT_EQ(normalize_image_reference("r.io:5000/x"), "r.io:5000/x:latest");
  EXPECT_EQ(normalize_image_reference("r.io/x@sha256:00"), "r.io/x@sha256:00");
}

TEST(VolumeCompressionNames, AreKnown) {
  EXPECT_EQ(parse_volume_compression("zstd"), VolumeCompression::zstd);
  EXPECT_FALSE(parse_volume_compression("bzip2").has_value());
}

}  // namespace
}  // namespace dstack::host
