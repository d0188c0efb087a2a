// Which guest images may get keys after install, and who can change what it made. Real programs, no VM.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "app/allowlist_file.h"
#include "base/fs.h"
#include "crypto/hash.h"
#include "host/state.h"
#include "integration/installed_host.h"
#include "unit/host/release_server.h"

namespace fs = std::filesystem;
using namespace dstack;
using test::InstalledHost;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::UnorderedElementsAre;

namespace {

constexpr uid_t k_nobody = 65534;

class InstallPins : public test::OnInstalledHost {
 protected:
  // Puts an image there; its digest, unless it is to have none.
  std::string add_image(const std::string& name, bool with_digest = true) const {
    auto files = dstack::host::test::image_files();
    files["metadata.json"].append(static_cast<std::size_t>(name.front()), ' ');
    const auto directory = host.layout().images() / name;
    EXPECT_TRUE(base::make_dirs(directory));
    std::string sums;
    for (const auto& [file, data] : files) {
      if (file != "sha256sum.txt" && file != "digest.txt") {
        EXPECT_TRUE(base::write_file_atomic(directory / file, data));
        sums += crypto::sha256_hex(data) + "  " + file + "\n";
      }
    }
    if (!with_digest) {
      return {};
    }
    EXPECT_TRUE(base::write_file_atomic(directory / "sha256sum.txt", sums));
    EXPECT_TRUE(base::write_file_atomic(directory / "digest.txt", crypto::sha256_hex(sums) + "\n"));
    return crypto::sha256_hex(sums);
  }
  void add_vm(const std::string& name, const std::string& image) const {
    const auto directory = host.layout().vms() / name;
    ASSERT_TRUE(base::make_dirs(directory));
    ASSERT_TRUE(base::write_file_atomic(directory / "vm-manifest.json",
                                        R"({"name":")" + name + R"(","image":")" + image + R"("})"));
  }
  // Without a KMS, unless `more` says otherwise; nothing is started.
  base::Output install(std::vector<std::string> more) const {
    more.emplace_back("--no-start");
    return host.run(host.install(more));
  }
  base::Output install_with_kms(std::vector<std::string> more) const {
    std::vector<std::string> argv = {program(),
                                     "install",
                                     "--platform",
                                     "simulated",
                                     "--no-start",
                                     "--qemu",
                                     test::stand_in_qemu().string(),
                                     "--kms-image",
                                     "registry.example/kms:1"};
    argv.insert(argv.end(), more.begin(), more.end());
    return host.run(argv);
  }
  base::Output dstackup(std::vector<std::string> argv) const {
    argv.insert(argv.begin(), program());
    return host.run(argv);
  }
  app::Allowlist list() const {
    const auto loaded = app::load_allowlist(host.layout().allowlist());
    EXPECT_TRUE(loaded) << loaded.error().what();
    return loaded ? loaded->allowlist : app::Allowlist();
  }
  static std::string program() { return (test::sandbox_programs() / "dstackup").string(); }
};

}  // namespace

// It opened the list for every image.
TEST_F(InstallPins, AnImageWithoutDigestIsNotPinnedAndOpensNothing) {
  add_image("plain", /*with_digest=*/false);
  const auto installed = install({});
  ASSERT_EQ(installed.exit_code, 0) << installed.err;
  EXPECT_THAT(list().os_images, IsEmpty());
  EXPECT_FALSE(list().allow_any_os_image);
  const auto doctor = dstackup({"doctor"});
  EXPECT_THAT(doctor.out, HasSubstr("plain has no digest, so no app gets keys on it"));
  EXPECT_THAT(doctor.out, Not(HasSubstr("any guest image may get keys")));
}

TEST_F(InstallPins, WithAKmsAnImageWithoutDigestNeedsTheFlag) {
  add_image("plain", /*with_digest=*/false);
  const auto refused = install_with_kms({"--image", "plain"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("DS1608"), HasSubstr("--allow-unpinned-image")));
  EXPECT_FALSE(fs::exists(host.layout().allowlist()));
  const auto installed = install_with_kms({"--image", "plain", "--allow-unpinned-image"});
  ASSERT_EQ(installed.exit_code, 0) << installed.err;
  EXPECT_THAT(installed.err, HasSubstr("keys are released to any guest image"));
  EXPECT_TRUE(list().allow_any_os_image);
  EXPECT_THAT(list().os_images, IsEmpty());
  EXPECT_THAT(dstackup({"doctor"}).out, AllOf(HasSubstr("any guest image may get keys"),
                                              HasSubstr("build or pull an image with a digest")));
}

// The pin was thrown away.
TEST_F(InstallPins, TheFlagDoesNotTakeAPinAway) {
  const auto hash = add_image("one");
  const auto installed = install({"--allow-unpinned-image"});
  ASSERT_EQ(installed.exit_code, 0) << installed.err;
  EXPECT_THAT(installed.err, HasSubstr("--allow-unpinned-image changes nothing"));
  EXPECT_THAT(list().os_images, ElementsAre(hash));
  EXPECT_FALSE(list().allow_any_os_image);
  EXPECT_EQ((*host::load_state(host.layout().state_file()))->os_image_hash, hash);
}

// The list still named the old image, which is all that it then lets pass.
TEST_F(InstallPins, TheFlagAfterAPinIsEffectiveAndCanBeTakenBack) {
  const auto hash = add_image("one");
  add_image("plain", /*with_digest=*/false);
  ASSERT_EQ(install({"--image", "one"}).exit_code, 0);
  ASSERT_THAT(list().os_images, ElementsAre(hash));
  const auto opened = install({"--image", "plain", "--allow-unpinned-image"});
  ASSERT_EQ(opened.exit_code, 0) << opened.err;
  EXPECT_THAT(opened.err, HasSubstr("any guest image"));
  EXPECT_THAT(list().os_images, IsEmpty());
  EXPECT_TRUE(list().allow_any_os_image);
  EXPECT_THAT(install({"--allow-unpinned-image"}).out, HasSubstr("nothing to do"));
  ASSERT_EQ(install({"--image", "one"}).exit_code, 0);
  EXPECT_THAT(list().os_images, ElementsAre(hash));
  EXPECT_FALSE(list().allow_any_os_image);
}

TEST_F(InstallPins, TheFlagWithoutAnyImageIsWritten) {
  const auto installed = install({"--allow-unpinned-image"});
  ASSERT_EQ(installed.exit_code, 0) << installed.err;
  EXPECT_THAT(installed.err, HasSubstr("keys are released to any guest image"));
  EXPECT_TRUE(list().allow_any_os_image);
  ASSERT_EQ(install({}).exit_code, 0);
  EXPECT_FALSE(list().allow_any_os_image) << "left out, it is taken back";
}

// Old pins stayed for ever.
TEST_F(InstallPins, AnotherImageTakesTheFormerPinAway) {
  const auto one = add_image("one");
  const auto two = add_image("two");
  ASSERT_EQ(install({"--image", "one"}).exit_code, 0);
  const std::string by_hand(64, 'e');
  ASSERT_TRUE(app::AllowlistFile(host.layout().allowlist()).pin_image(by_hand));
  ASSERT_EQ(install({"--image", "two"}).exit_code, 0);
  EXPECT_THAT(list().os_images, UnorderedElementsAre(two, by_hand)) << "what an operator added is not ours";
}

TEST_F(InstallPins, AFormerPinStaysWhileVmsUseItAndIsTakenBackByHand) {
  const auto one = add_image("one");
  const auto two = add_image("two");
  ASSERT_EQ(install({"--image", "one"}).exit_code, 0);
  add_vm("web", "one");
  const auto installed = install({"--image", "two"});
  ASSERT_EQ(installed.exit_code, 0) << installed.err;
  EXPECT_THAT(installed.err, AllOf(HasSubstr("VMs use it: web"), HasSubstr("dstackup image unpin " + one)));
  EXPECT_THAT(list().os_images, UnorderedElementsAre(one, two));
  EXPECT_THAT(dstackup({"image", "list"}).out, HasSubstr("in the allow-list: "));

  for (const auto& name : {std::string("one"), one}) {
    const auto refused = dstackup({"image", "unpin", name});
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_THAT(refused.err, AllOf(HasSubstr("DS1653"), HasSubstr("web"), HasSubstr("--force")));
  }
  const auto own = dstackup({"image", "unpin", "two"});
  EXPECT_EQ(own.exit_code, 1);
  EXPECT_THAT(own.err, AllOf(HasSubstr("the installation's own"), HasSubstr("--image NAME")));
  EXPECT_THAT(list().os_images, UnorderedElementsAre(one, two));
  fs::remove_all(host.layout().vms() / "web");
  EXPECT_EQ(dstackup({"image", "unpin", "one"}).exit_code, 0);
  EXPECT_THAT(list().os_images, ElementsAre(two));
  EXPECT_THAT(dstackup({"image", "unpin", "one"}).err, HasSubstr("was not in the allow-list"));
  EXPECT_THAT(dstackup({"image", "unpin", "none"}).err, HasSubstr("name its digest"));
}

// Root's services run programs from there, so that whoever can write there is root.
TEST_F(InstallPins, DirectoriesThatOthersCanChangeAreRefused) {
  struct Case {
    std::string directory;
    mode_t mode;
    uid_t owner;
  };
  for (const auto& [directory, mode, owner] :
       {Case{"/var/lib/p", 0777, 0}, Case{"/var/lib/p", 0755, k_nobody}, Case{"/var/lib/p/var/lib", 0775, 0},
        Case{"/var/lib/p/libexec", 0755, k_nobody}}) {
    const InstalledHost other{"/var/lib/p"};
    ASSERT_TRUE(base::make_dirs(directory));
    ASSERT_EQ(::chown(directory.c_str(), owner, owner), 0);
    ASSERT_EQ(::chmod(directory.c_str(), mode), 0);
    const auto refused = other.run(other.install({"--no-start"}));
    EXPECT_EQ(refused.exit_code, 1) << directory;
    EXPECT_THAT(refused.err, AllOf(HasSubstr("directories"), HasSubstr(directory), HasSubstr("fix:")));
    EXPECT_FALSE(fs::exists(other.layout().config));
    const auto ignored = other.run(other.install({"--no-start", "--ignore-preflight-errors", "directories"}));
    EXPECT_EQ(ignored.exit_code, 0) << ignored.err;
    EXPECT_EQ(other.run(other.destroy()).exit_code, 0);
    fs::remove_all("/var/lib/p");
  }
}

TEST_F(InstallPins, APrefixThatIsNoTextIsRefusedBeforeAnythingIsMade) {
  const auto before = test::host_snapshot();
  for (const std::string bad : {"/var/lib/p\xff", "/var/lib/a\nb", "/var/lib/\xed\xa0\x80"}) {
    for (const char* flag : {"--prefix", "--image-path", "--bin-dir", "--qemu"}) {
      const auto refused = dstackup({"install", "--platform", "simulated", "--no-kms", flag, bad});
      EXPECT_EQ(refused.exit_code, 1) << flag;
      EXPECT_THAT(refused.err, AllOf(HasSubstr(flag), HasSubstr("DS1600"), HasSubstr("fix:"))) << flag;
    }
  }
  EXPECT_EQ(test::difference(before, test::host_snapshot()), "");
}

TEST_F(InstallPins, ARecordThatIsAPipeKeepsNobodyWaiting) {
  ASSERT_EQ(install({}).exit_code, 0);
  const auto record = host.layout().state_file();
  fs::remove(record);
  ASSERT_EQ(::mkfifo(record.c_str(), 0600), 0);
  for (const auto& verb : std::vector<std::vector<std::string>>{
           {"status"}, {"doctor"}, {"install", "--platform", "simulated", "--no-kms"}, {"image", "list"}}) {
    const auto output = dstackup(verb);
    EXPECT_GT(output.exit_code, 0) << verb[0];
    EXPECT_THAT(output.out + output.err, HasSubstr("not a regular file")) << verb[0];
  }
  EXPECT_EQ(host.run(host.destroy()).exit_code, 0) << "it goes by the journal";
}

TEST_F(InstallPins, ATokenThatIsNoneIsNamed) {
  ASSERT_EQ(install({}).exit_code, 0);
  const auto token = host.layout().token_file();
  ASSERT_TRUE(base::write_file_atomic(token, "\"abc\"\n\"def\"\n"));
  for (const auto& output : {dstackup({"doctor"}), install({})}) {
    EXPECT_GT(output.exit_code, 0) << output.out;
    EXPECT_THAT(output.out + output.err, AllOf(HasSubstr(token.string()), HasSubstr("remove the file")));
  }
  fs::remove(token);
  EXPECT_EQ(install({}).exit_code, 0);
}

TEST_F(InstallPins, DestroyOfWhatIsNoInstallation) {
  ASSERT_TRUE(base::write_file_atomic("/var/lib/file", "x"));
  const auto refused = dstackup({"destroy", "--prefix", "/var/lib/file"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("/var/lib/file is not a directory"), HasSubstr("--prefix")));
  fs::remove("/var/lib/file");
  // As a pull leaves it that found no release.
  const auto pulled = dstackup({"image", "pull", "--release-api-base-url", "http://127.0.0.1:9/repos"});
  EXPECT_EQ(pulled.exit_code, 1);
  const auto destroyed = host.run(host.destroy({}));
  EXPECT_EQ(destroyed.exit_code, 0) << destroyed.err;
  EXPECT_THAT(destroyed.out, AllOf(HasSubstr("nothing is installed"), Not(HasSubstr("taken down"))));
  EXPECT_EQ(host.take_away(), "");
  EXPECT_FALSE(fs::exists(host.layout().state));
  // With an image it stays, and is said.
  add_image("one");
  EXPECT_THAT(host.run(host.destroy({})).out, HasSubstr("images and volumes are kept"));
  EXPECT_TRUE(fs::exists(host.layout().images() / "one/digest.txt"));
}
