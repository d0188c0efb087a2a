#include "host/container_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "base/process.h"
#include "crypto/hash.h"
#include "host/volume.h"

namespace dstack::host {
namespace {

using base::Code;

class ArchiveTest : public testing::Test {
 protected:
  ArchiveTest() {
    std::string name = "/tmp/archive-test-XXXXXX";
    m_root = ::mkdtemp(name.data());
    m_image.reference = "localhost/app:latest";
    m_image.command = {"/bin/app", "--flag"};
  }
  ~ArchiveTest() override { (void)base::remove_tree(m_root); }
  static void write(const fs::path& path, std::string_view text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  std::string member(const fs::path& archive, const std::string& name) {
    const auto output =
        base::run_checked({.argv = {"tar", "--extract", "--to-stdout", "--file", archive.string(), name}});
    return output ? output->out : "";
  }

  fs::path m_root;
  ContainerImage m_image;
};

TEST_F(ArchiveTest, PacksADirectory) {
  write(m_root / "tree/bin/app", "program");
  m_image.exposed_ports = {"80/tcp"};
  m_image.environment = {"A=b"};
  ASSERT_TRUE(write_container_archive(m_root / "tree", m_image, m_root / "out.tar").has_value());
  const auto manifest = nlohmann::json::parse(member(m_root / "out.tar", "manifest.json"));
  EXPECT_EQ(manifest[0]["RepoTags"][0], "localhost/app:latest");
  const auto config_name = manifest[0]["Config"].get<std::string>();
  const auto config_text = member(m_root / "out.tar", config_name);
  EXPECT_EQ(crypto::sha256_hex(config_text) + ".json", config_name);
  const auto config = nlohmann::json::parse(config_text);
  EXPECT_EQ(config["config"]["Cmd"][1], "--flag");
  EXPECT_TRUE(config["config"]["ExposedPorts"].contains("80/tcp"));
  EXPECT_THAT(config["config"]["Env"][0].get<std::string>(), testing::StartsWith("PATH="));
  const auto layer = member(m_root / "out.tar", manifest[0]["Layers"][0].get<std::string>());
  EXPECT_EQ(config["rootfs"]["diff_ids"][0], "sha256:" + crypto::sha256_hex(layer));
  EXPECT_THAT(layer, testing::HasSubstr("program"));
}

TEST_F(ArchiveTest, GivesTheSameBytesLater) {
  write(m_root / "tree/b", "1");
  write(m_root / "tree/a", "2");
  ASSERT_TRUE(write_container_archive(m_root / "tree", m_image, m_root / "one.tar").has_value());
  fs::remove(m_root / "tree/a");
  write(m_root / "tree/a", "2");
  ASSERT_TRUE(write_container_archive(m_root / "tree", m_image, m_root / "two.tar").has_value());
  EXPECT_EQ(base::read_file(m_root / "one.tar").value(), base::read_file(m_root / "two.tar").value());
}

TEST_F(ArchiveTest, PacksSingleFilesFromScratch) {
  write(m_root / "kms", "binary");
  ASSERT_TRUE(write_container_archive({{m_root / "kms", "/opt/x/dstack-kms"}}, m_image, m_root / "out.tar")
                  .has_value());
  const auto manifest = nlohmann::json::parse(member(m_root / "out.tar", "manifest.json"));
  write(m_root / "layer.tar", member(m_root / "out.tar", manifest[0]["Layers"][0].get<std::string>()));
  const auto listing =
      base::run_checked({.argv = {"tar", "--list", "--verbose", "--file", (m_root / "layer.tar").string()}});
  ASSERT_TRUE(listing.has_value());
  EXPECT_THAT(listing->out, testing::ContainsRegex("drwxr-xr-x .* opt/"));
  EXPECT_THAT(listing->out, testing::ContainsRegex("-rwxr-xr-x .* opt/x/dstack-kms"));
}

TEST_F(ArchiveTest, RefusesBadInput) {
  EXPECT_EQ(write_container_archive(m_root / "missing", m_image, m_root / "o").error().code, Code::not_found);
  EXPECT_FALSE(write_container_archive({{m_root / "missing", "/x"}}, m_image, m_root / "o").has_value());
  EXPECT_FALSE(write_container_archive({{m_root / "missing", "/a/../x"}}, m_image, m_root / "o").has_value());
  write(m_root / "t/f", "");
  auto image = m_image;
  image.reference = "a b";
  EXPECT_EQ(write_container_archive(m_root / "t", image, m_root / "o").error().code, Code::invalid_argument);
  image = m_image;
  image.command.clear();
  EXPECT_EQ(write_container_archive(m_root / "t", image, m_root / "o").error().code, Code::invalid_argument);
  EXPECT_FALSE(fs::exists(m_root / "o"));
  EXPECT_FALSE(fs::exists(m_root / "o.partial"));
}

TEST_F(ArchiveTest, ReadsNamesOfDockerArchives) {
  write(m_root / "t/f", "x");
  const auto archive = m_root / "a.tar";
  ASSERT_TRUE(write_container_archive(m_root / "t", m_image, archive).has_value());
  const auto images = read_archive_images(archive);
  ASSERT_TRUE(images.has_value()) << images.error().what();
  ASSERT_EQ(images->size(), 1u);
  EXPECT_EQ(images->at(0).reference, "localhost/app:latest");
  EXPECT_EQ(images->at(0).source, "docker-archive:" + archive.string() + ":localhost/app:latest");
}

TEST_F(ArchiveTest, ReadsNamesOfOciArchives) {
  write(m_root / "oci/index.json", R"({"manifests":[{"annotations":{"org.opencontainers.image.ref.name":"v1",
                                      "io.containerd.image.name":"docker.io/library/app:v1"}},{}]})");
  ASSERT_TRUE(base::run_checked({.argv = {"tar", "--create", "--file", (m_root / "o.tar").string(),
                                          "--directory", (m_root / "oci").string(), "index.json"}}));
  const auto images = read_archive_images(m_root / "o.tar");
  ASSERT_TRUE(images.has_value()) << images.error().what();
  ASSERT_EQ(images->size(), 1u);
  EXPECT_EQ(images->at(0).reference, "docker.io/library/app:v1");
  EXPECT_EQ(images->at(0).source, "oci-archive:" + (m_root / "o.tar").string() + ":v1");
}

TEST_F(ArchiveTest, RefusesOtherArchives) {
  const auto pack = [&](const std::string& name, const std::string& text) {
    write(m_root / "x" / name, text);
    (void)base::run_checked({.argv = {"tar", "--create", "--file", (m_root / "x.tar").string(), "--directory",
                                      (m_root / "x").string(), name}});
    return read_archive_images(m_root / "x.tar");
  };
  EXPECT_EQ(pack("other", "x").error().code, Code::container_archive);
  EXPECT_EQ(pack("manifest.json", "{}").error().code, Code::container_archive);
  EXPECT_EQ(pack("manifest.json", R"([{"RepoTags":null}])").error().code, Code::container_archive);
  EXPECT_EQ(pack("manifest.json", R"([{"RepoTags":["--evil"]}])").error().code, Code::container_archive);
  write(m_root / "garbage", "not a tar");
  EXPECT_EQ(read_archive_images(m_root / "garbage").error().code, Code::container_archive);
  EXPECT_EQ(read_archive_images(m_root / "missing").error().code, Code::not_found);
}

TEST_F(ArchiveTest, BecomesAVolumeThatDoesNotDependOnTheDay) {
  if (!base::find_tool("skopeo") || !base::find_tool("mksquashfs") || !base::find_tool("veritysetup")) {
    GTEST_SKIP() << "needs skopeo, squashfs-tools and cryptsetup-bin";
  }
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root";
  }
  write(m_root / "t/f", "x");
  const auto archive = m_root / "a.tar";
  ASSERT_TRUE(write_container_archive(m_root / "t", m_image, archive).has_value());
  const auto first = add_image_volume(m_root / "s1", {.archive = archive});
  ASSERT_TRUE(first.has_value()) << first.error().what();
  const auto second = add_image_volume(m_root / "s2", {.archive = archive, .name = "other"});
  ASSERT_TRUE(second.has_value()) << second.error().what();
  EXPECT_EQ(first->name, "app");
  EXPECT_EQ(first->file, "app.img");
  EXPECT_EQ(first->verity_root, second->verity_root);
  EXPECT_THAT(first->images, testing::ElementsAre("localhost/app:latest"));
  const auto again = add_image_volume(m_root / "s1", {.archive = archive});
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->verity_root, first->verity_root);

  write(m_root / "t/f", "y");
  ASSERT_TRUE(write_container_archive(m_root / "t", m_image, archive).has_value());
  EXPECT_EQ(add_image_volume(m_root / "s1", {.archive = archive}).error().code, Code::volume_exists);
  EXPECT_TRUE(add_image_volume(m_root / "s1", {.archive = archive, .replace = true}).has_value());
  EXPECT_EQ(VolumeIndex::load(m_root / "s1")->entries().size(), 1u);
}

}  // namespace
}  // namespace dstack::host
