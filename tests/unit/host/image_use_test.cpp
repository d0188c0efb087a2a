#include "host/image_use.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/format.h"
#include "base/fs.h"
#include "host/image_build.h"
#include "unit/host/release_server.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using base::Code;
using ::dstack::test::TempDir;
using testing::HasSubstr;

void put_image(const fs::path& directory, const std::map<std::string, std::string>& files) {
  ASSERT_TRUE(base::make_dirs(directory));
  for (const auto& [name, data] : files) {
    std::ofstream(directory / name) << data;
  }
}

void put_vm(const fs::path& vms, const std::string& name, const std::string& image) {
  ASSERT_TRUE(base::make_dirs(vms / name));
  std::ofstream(vms / name / "vm-manifest.json")
      << base::format(R"({{"name":"{}","image":"{}"}})", name, image);
}

std::string digest_of(const std::map<std::string, std::string>& files) {
  return crypto::sha256_hex(files.at("sha256sum.txt"));
}

TEST(VmsWithImage, AreFoundByTheirManifests) {
  const TempDir dir;
  put_vm(dir.path(), "vm-a", "one");
  put_vm(dir.path(), "vm-b", "two");
  fs::create_directory(dir / "c");
  std::ofstream(dir / "c/vm-manifest.json") << "{";
  EXPECT_THAT(vms_with_image(dir.path(), "two"), testing::ElementsAre("vm-b"));
  EXPECT_TRUE(vms_with_image(dir / "none", "two").empty());
}

// They were compared as text, so that a slash at the end or a link took the pin away.
TEST(ImageDirectory, IsTheInstallationsHoweverItIsWritten) {
  const TempDir dir;
  fs::create_directory(dir / "images");
  fs::create_directory_symlink(dir / "images", dir / "link");
  EXPECT_TRUE(same_directory(dir / "images", dir / "images/"));
  EXPECT_TRUE(same_directory(dir / "images", dir / "link"));
  EXPECT_TRUE(same_directory(dir / "none//x/", dir / "none/x"));
  EXPECT_FALSE(same_directory(dir / "images", dir.path()));
  EXPECT_FALSE(same_directory(dir / "none", dir / "images"));

  const auto layout = *Layout::make((dir / "prefix").string());
  InstallState state;
  state.image = "one";
  state.image_path = (dir / "images").string();
  EXPECT_EQ(image_use(state, layout, dir / "images/").pinned_name, "one");
  EXPECT_EQ(image_use(state, layout, dir / "link").pinned_name, "one");
  EXPECT_EQ(image_use(state, layout, layout.images()).pinned_name, "");
  EXPECT_EQ(image_directory(state, layout), dir / "images");
  EXPECT_EQ(image_directory({}, layout), layout.images());
  EXPECT_EQ(installed_layout(layout, state).images(), dir / "images");
  EXPECT_FALSE(installed_layout(layout, {}).image_path);
}

// The record that destroy leaves kept an image without a word about it.
TEST(ImageRemoval, SaysThatAnInstallationWhichWasTakenDownKeepsIt) {
  const TempDir dir;
  const auto layout = *Layout::make((dir / "prefix").string());
  InstallState state;
  state.image = "one";
  ASSERT_TRUE(base::make_dirs(layout.state));
  std::ofstream(layout.state_file()) << "{}";
  const auto running = check_removal(image_use(state, layout, layout.images()), "one");
  ASSERT_FALSE(running);
  EXPECT_THAT(running.error().what(), testing::Not(HasSubstr("taken down")));
  fs::remove(layout.state_file());
  const auto use = image_use(state, layout, layout.images());
  const auto kept = check_removal(use, "one");
  ASSERT_FALSE(kept);
  EXPECT_EQ(kept.error().code, Code::image_in_use);
  EXPECT_THAT(kept.error().what(), HasSubstr("taken down"));
  EXPECT_THAT(kept.error().fix, testing::AllOf(HasSubstr("destroy --purge"), HasSubstr("--force")));
  EXPECT_TRUE(check_removal(use, "two"));
}

TEST(ImageDirectory, ACorruptRecordDoesNotBecomeTheDefault) {
  const TempDir dir;
  const auto layout = *Layout::make((dir / "prefix").string());
  ASSERT_TRUE(last_known_state(layout));
  ASSERT_TRUE(base::make_dirs(layout.state));
  std::ofstream(layout.state_file()) << "{";
  EXPECT_EQ(last_known_state(layout).error().code, Code::state_corrupt);
}

class Replacement : public testing::Test {
 protected:
  Replacement() {
    m_build.images = m_dir / "images";
    m_build.use.vms = m_dir / "vms";
    put_image(m_build.images / "one", m_old);
  }
  std::string in_place() const { return base::read_file(m_build.images / "one/digest.txt").value_or("none"); }
  // What the end of a build does; its error, "" for none.
  std::string publish() {
    EXPECT_TRUE(base::remove_tree(m_stage));
    put_image(m_stage, m_new);
    const auto built = publish_image(m_build, m_stage, "one");
    return built ? "" : built.error().what() + " " + built.error().fix;
  }
  void pin(const std::string& hash) {
    m_build.use.pinned_name = "one";
    m_build.use.pinned_hash = hash;
  }

  TempDir m_dir;
  BuildImage m_build;
  fs::path m_stage = m_dir / "images/.build/image";
  std::map<std::string, std::string> m_old = test::image_files("0.6.0"), m_new = test::image_files("0.7.0");
};

TEST_F(Replacement, ABuildReplacesWhatNobodyNeedsAndKeepsItUntilThen) {
  EXPECT_EQ(publish(), "");
  EXPECT_EQ(in_place(), m_new["digest.txt"]);
  EXPECT_EQ(base::read_file(m_stage / "digest.txt").value_or(""), m_old["digest.txt"])
      << "exchanged, not removed";
}

TEST_F(Replacement, ABuildDoesNotReplaceThePinnedImageUnasked) {
  pin(digest_of(m_old));
  EXPECT_THAT(publish(), testing::AllOf(HasSubstr("is pinned"), HasSubstr("--name"), HasSubstr("--force")));
  EXPECT_EQ(in_place(), m_old["digest.txt"]);
  m_build.force = true;
  EXPECT_EQ(publish(), "");
  EXPECT_EQ(in_place(), m_new["digest.txt"]);
}

TEST_F(Replacement, ABuildDoesNotReplaceTheImageOfVmsUnasked) {
  put_vm(m_build.use.vms, "web", "one");
  EXPECT_THAT(publish(), HasSubstr("VMs use it: web"));
  EXPECT_EQ(in_place(), m_old["digest.txt"]);
  m_build.force = true;
  EXPECT_EQ(publish(), "");
}

TEST_F(Replacement, ABuildOfTheSameImageIsUpToDateThoughItIsPinnedAndUsed) {
  m_new = m_old;
  pin(digest_of(m_old));
  put_vm(m_build.use.vms, "web", "one");
  EXPECT_EQ(publish(), "");
  EXPECT_TRUE(fs::exists(m_stage));
  // A damaged root disk, which the digest does not cover, is put right.
  std::ofstream(m_build.images / "one/rootfs.img.parted.verity") << "damaged";
  EXPECT_EQ(publish(), "");
  EXPECT_EQ(base::read_file(m_build.images / "one/rootfs.img.parted.verity").value_or(""),
            m_old["rootfs.img.parted.verity"]);
  // And so is the whole pinned image when it is gone.
  ASSERT_TRUE(base::remove_tree(m_build.images / "one"));
  EXPECT_EQ(publish(), "");
}

TEST_F(Replacement, WithoutAPinnedDigestTheImageInPlaceIsKept) {
  pin("");
  EXPECT_THAT(publish(), HasSubstr("the installation pins it"));
  EXPECT_EQ(in_place(), m_old["digest.txt"]);
}

TEST_F(Replacement, ABuildRepairsABrokenImageButTakesNoOtherDirectory) {
  fs::remove(m_build.images / "one/bzImage");
  EXPECT_EQ(publish(), "");
  ASSERT_TRUE(base::remove_tree(m_build.images / "one"));
  fs::create_directory(m_build.images / "one");
  std::ofstream(m_build.images / "one/mine") << "mine";
  EXPECT_THAT(publish(), HasSubstr("is there already"));
  EXPECT_TRUE(fs::exists(m_build.images / "one/mine"));
}

TEST(AdoptDirectory, ReplacesOnlyWhenAsked) {
  const TempDir dir;
  fs::create_directory(dir / "from");
  fs::create_directory_symlink(dir / "nowhere", dir / "to");
  EXPECT_FALSE(adopt_directory(dir / "from", dir / "to", /*replace=*/false)) << "a link to nothing";
  fs::remove(dir / "to");
  ASSERT_TRUE(adopt_directory(dir / "from", dir / "to", /*replace=*/false));
  EXPECT_FALSE(fs::exists(dir / "from"));
  fs::create_directory(dir / "from");
  EXPECT_EQ(adopt_directory(dir / "from", dir / "to", /*replace=*/false).error().code, Code::image_invalid);
  std::ofstream(dir / "from/new") << "x";
  ASSERT_TRUE(adopt_directory(dir / "from", dir / "to", /*replace=*/true));
  EXPECT_TRUE(fs::exists(dir / "to/new"));
  EXPECT_TRUE(fs::exists(dir / "from"));
  EXPECT_FALSE(adopt_directory(dir / "none", dir / "x", /*replace=*/true));
}

}  // namespace
}  // namespace dstack::host
