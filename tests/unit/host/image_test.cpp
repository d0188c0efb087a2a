#include "host/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "base/fs.h"
#include "crypto/hash.h"

namespace dstack::host {
namespace {

using base::Code;

class ImageTest : public testing::Test {
 protected:
  ImageTest() {
    std::string name = "/tmp/image-test-XXXXXX";
    m_root = ::mkdtemp(name.data());
  }
  ~ImageTest() override { (void)base::remove_tree(m_root); }

  static void write(const fs::path& path, std::string_view text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  // A small but complete image.
  fs::path make(const std::string& name,
                const std::string& metadata =
                    R"({"kernel":"bzImage","initrd":"i.cpio","rootfs":"r.verity","bios":null})") {
    const auto directory = m_root / name;
    write(directory / "bzImage", "kernel of " + name);
    write(directory / "i.cpio", "initrd");
    write(directory / "r.verity", "root");
    write(directory / "metadata.json", metadata);
    std::string sums;
    for (const char* file : {"bzImage", "i.cpio", "metadata.json"}) {
      sums += crypto::sha256_hex(base::read_file(directory / file).value()) + "  " + file + "\n";
    }
    write(directory / "sha256sum.txt", sums);
    write(directory / "digest.txt", crypto::sha256_hex(sums) + "\n");
    return directory;
  }

  fs::path m_root;
};

TEST_F(ImageTest, LoadsAndVerifies) {
  const auto directory = make("dstack-1.2.3");
  const auto image = load_image(directory);
  ASSERT_TRUE(image.has_value()) << image.error().what();
  EXPECT_EQ(image->name, "dstack-1.2.3");
  EXPECT_EQ(image->kernel, fs::canonical(directory / "bzImage"));
  EXPECT_EQ(image->rootfs, fs::canonical(directory / "r.verity"));
  EXPECT_FALSE(image->bios.has_value());
  EXPECT_FALSE(image->vmlinux.has_value());
  EXPECT_EQ(image->os_image_hash.size(), 64u);
  EXPECT_EQ(image->metadata.version, "1.2.3") << "from the directory when metadata.json has none";
  EXPECT_TRUE(verify_image_digest(*image).has_value());
}

TEST_F(ImageTest, NoticesChangedFiles) {
  const auto directory = make("dstack-1.0.0");
  write(directory / "i.cpio", "other");
  const auto verdict = verify_image_digest(load_image(directory).value());
  ASSERT_FALSE(verdict.has_value());
  EXPECT_EQ(verdict.error().code, Code::image_corrupt);
  EXPECT_THAT(verdict.error().what(), testing::HasSubstr("i.cpio"));
}

TEST_F(ImageTest, NoticesAChangedSumList) {
  const auto directory = make("dstack-1.0.0");
  write(directory / "digest.txt", std::string(64, '0'));
  EXPECT_EQ(verify_image_digest(load_image(directory).value()).error().code, Code::image_corrupt);
}

TEST_F(ImageTest, WantsKernelInitrdAndMetadataInTheSumList) {
  const auto directory = make("dstack-1.0.0");
  const std::string sums = crypto::sha256_hex("kernel of dstack-1.0.0") + "  bzImage\n";
  write(directory / "sha256sum.txt", sums);
  write(directory / "digest.txt", crypto::sha256_hex(sums));
  const auto verdict = verify_image_digest(load_image(directory).value());
  ASSERT_FALSE(verdict.has_value());
  EXPECT_THAT(verdict.error().what(), testing::HasSubstr("i.cpio"));
}

TEST_F(ImageTest, LoadsWithoutADigest) {
  const auto directory = make("dstack-1.0.0");
  fs::remove(directory / "digest.txt");
  const auto image = load_image(directory);
  ASSERT_TRUE(image.has_value());
  EXPECT_EQ(image->os_image_hash, "");
  EXPECT_FALSE(verify_image_digest(*image).has_value());
}

TEST_F(ImageTest, RefusesArtifactsOutside) {
  write(m_root / "outside", "x");
  const auto directory = make("bad", R"({"kernel":"../outside","initrd":"i.cpio"})");
  EXPECT_EQ(load_image(directory).error().code, Code::image_invalid);
  fs::remove(directory / "bzImage");
  fs::create_symlink(m_root / "outside", directory / "bzImage");
  write(directory / "metadata.json", R"({"kernel":"bzImage","initrd":"i.cpio"})");
  EXPECT_EQ(load_image(directory).error().code, Code::image_invalid);
  write(directory / "metadata.json", R"({"kernel":".","initrd":"i.cpio"})");
  EXPECT_EQ(load_image(directory).error().code, Code::image_invalid);
  write(directory / "metadata.json", R"({"kernel":"missing","initrd":"i.cpio"})");
  EXPECT_EQ(load_image(directory).error().code, Code::image_invalid);
}

TEST_F(ImageTest, FollowsLinksThatStayInside) {
  const auto directory = make("linked", R"({"kernel":"link","initrd":"i.cpio"})");
  fs::create_symlink("bzImage", directory / "link");
  EXPECT_TRUE(load_image(directory).has_value());
}

TEST_F(ImageTest, ListsNewestLastAndReportsBroken) {
  make("dstack-b");
  make("dstack-a");
  fs::last_write_time(m_root / "dstack-b", fs::file_time_type::clock::now() - std::chrono::hours(1));
  make("broken", "{}");
  make(".hidden");
  fs::create_directory(m_root / "empty");
  std::vector<std::string> broken;
  const auto images = list_images(m_root, &broken);
  ASSERT_TRUE(images.has_value());
  ASSERT_EQ(images->size(), 2u);
  EXPECT_EQ(images->at(0).name, "dstack-b");
  EXPECT_EQ(images->at(1).name, "dstack-a");
  EXPECT_EQ(broken.size(), 1u);
  EXPECT_TRUE(list_images(m_root / "missing").value().empty());
}

TEST_F(ImageTest, NamesTheImagesThatThereAre) {
  make("dstack-a");
  const auto missing = find_image(m_root, "nope");
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, Code::image_not_found);
  EXPECT_THAT(missing.error().fix, testing::HasSubstr("dstack-a"));
  EXPECT_EQ(find_image(m_root, "../etc").error().code, Code::invalid_argument);
}

TEST_F(ImageTest, RemovesByName) {
  make("dstack-a");
  EXPECT_EQ(remove_image(m_root, ".").error().code, Code::invalid_argument);
  EXPECT_EQ(remove_image(m_root, "b").error().code, Code::image_not_found);
  EXPECT_TRUE(remove_image(m_root, "dstack-a").has_value());
  EXPECT_FALSE(fs::exists(m_root / "dstack-a"));
}

TEST(ImageMetadata, ReadsAllKeys) {
  const auto metadata = parse_image_metadata(
      R"({"cmdline":"a=b","kernel":"k","vmlinux":"v","initrd":"i","hda":null,"rootfs":"r","bios":"f","bios-sev":"s",
          "rootfs_hash":"00","version":"0.6.0","git_revision":"g","shared_ro":true,"is_dev":true,"ovmf_variant":"x"})");
  ASSERT_TRUE(metadata.has_value());
  EXPECT_EQ(metadata->cmdline, "a=b");
  EXPECT_EQ(metadata->vmlinux, "v");
  EXPECT_EQ(metadata->bios_sev, "s");
  EXPECT_FALSE(metadata->hda.has_value());
  EXPECT_TRUE(metadata->shared_ro);
  EXPECT_TRUE(metadata->is_dev);
  EXPECT_EQ(metadata->ovmf_variant, "x");
}

TEST(ImageMetadata, RefusesOtherShapes) {
  for (const char* text :
       {"", "[]", "{", "{}", R"({"kernel":"k"})", R"({"kernel":1,"initrd":"i"})",
        R"({"kernel":"k","initrd":"i","is_dev":"yes"})", R"({"kernel":"k","initrd":"i","bios":[]})"}) {
    const auto metadata = parse_image_metadata(text);
    ASSERT_FALSE(metadata.has_value()) << text;
    EXPECT_EQ(metadata.error().code, Code::parse);
  }
}

TEST(ImageName, RefusesWhatIsNoName) {
  for (const char* name : {"", ".", "..", ".x", "a/b", "a\\b", "a,b", "a=b", "a\nb"}) {
    EXPECT_FALSE(check_image_name(name).has_value()) << name;
  }
  EXPECT_TRUE(check_image_name("dstack-0.6.0.a2").has_value());
}

TEST(ImageVersion, TakesThreeParts) {
  const auto version = parse_image_version("0.6.0.a2");
  ASSERT_TRUE(version.has_value());
  EXPECT_EQ(version->minor, 6u);
  EXPECT_TRUE(parse_image_version("1.2.3").has_value());
  for (const char* text : {"", "1.2", "1.x.3", "1.2.65536", "-1.2.3", "1..3"}) {
    EXPECT_FALSE(parse_image_version(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace dstack::host
