// install with a guest image that is not here yet: it comes from a release server of this test's own. Real
// programs, no VM.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "host/image_use.h"
#include "host/state.h"
#include "integration/installed_host.h"
#include "net/listen.h"
#include "unit/host/release_server.h"

namespace fs = std::filesystem;
using namespace dstack;
using dstack::host::test::ReleaseServer;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

namespace {

class InstallImage : public test::OnInstalledHost {
 protected:
  void SetUp() override {
    OnInstalledHost::SetUp();
    if (IsSkipped()) {
      return;
    }
    archive = dstack::host::test::image_tar(files);
    digest = "sha256:" + crypto::sha256_hex(archive);
    server =
        std::make_unique<ReleaseServer>([this](const ReleaseServer::Asked& asked) { return answer(asked); });
    host.remember_clean();  // with the server's port
  }
  void TearDown() override {
    server.reset();
    OnInstalledHost::TearDown();
  }

  ReleaseServer::Answer answer(const ReleaseServer::Asked& asked) const {
    using dstack::host::test::reply;
    const auto release = dstack::host::test::release_json("guest-os-v0.6.0", "dstack-0.6.0.tar.gz",
                                                          server->url("/file"), digest);
    if (asked.target == "/repos/Dstack-TEE/dstack/releases/tags/guest-os-v0.6.0") {
      return {reply(200, release)};
    }
    if (asked.target == "/repos/Dstack-TEE/dstack/releases?per_page=100") {
      return {reply(200, "[" + release + "]")};
    }
    return {asked.target == "/file" ? reply(200, archive) : reply(404, "")};
  }
  // With a KMS, which is not started: its image would come from a registry.
  std::vector<std::string> with_kms(std::vector<std::string> more) const {
    std::vector<std::string> argv = {(test::sandbox_programs() / "dstackup").string(),
                                     "install",
                                     "--platform",
                                     "simulated",
                                     "--no-start",
                                     "--qemu",
                                     test::stand_in_qemu().string(),
                                     "--kms-image",
                                     "registry.example/kms:1"};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  std::vector<std::string> from_server(std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--release-api-base-url", server->url("/repos")});
    return more;
  }

  std::map<std::string, std::string> files = dstack::host::test::image_files();
  std::string archive, digest;
  std::unique_ptr<ReleaseServer> server;
};

}  // namespace

TEST_F(InstallImage, AReleaseIsPulledAndPinned) {
  const auto clean = test::host_snapshot();
  const auto dry = host.run(host.install(from_server({"--image", "0.6.0", "--dry-run", "--json"})));
  ASSERT_EQ(dry.exit_code, 0) << dry.err;
  const auto plan = nlohmann::json::parse(dry.out);
  EXPECT_EQ(plan["imageToPull"], "the release 0.6.0");
  EXPECT_EQ(plan["steps"][0]["name"], "guest image");
  EXPECT_EQ(plan["steps"][0]["todo"], "pull");
  EXPECT_THAT(server->asked(), IsEmpty());
  EXPECT_EQ(test::difference(clean, test::host_snapshot()), "");

  const auto done = host.run(host.install(from_server({"--image", "0.6.0"})));
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(done.err, HasSubstr("release guest-os-v0.6.0: dstack-0.6.0.tar.gz"));
  EXPECT_EQ(host.state().image, "dstack-0.6.0");
  EXPECT_EQ(host.state().os_image_hash, crypto::sha256_hex(files["sha256sum.txt"]));
  EXPECT_THAT(*base::read_file(host.layout().allowlist()), HasSubstr(host.state().os_image_hash));
  const auto asked = server->asked().size();
  for (const auto* name : {"0.6.0", "v0.6.0", "dstack-0.6.0"}) {
    const auto again = host.run(host.install(from_server({"--image", name, "--json"})));
    ASSERT_EQ(again.exit_code, 0) << name << again.err;
    EXPECT_FALSE(nlohmann::json::parse(again.out)["changed"].get<bool>()) << name;
  }
  EXPECT_EQ(server->asked().size(), asked) << "what is here is asked for again";
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallImage, TheServerMayBeNamedBeforeTheVerb) {
  auto argv = host.install({"--image", "dstack-0.6.0"});
  argv.insert(argv.begin() + 1, {"--release-api-base-url", server->url("/repos/")});
  const auto done = host.run(argv);
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(host.state().image, "dstack-0.6.0");
}

TEST_F(InstallImage, WithAKmsAndNoImageTheLatestReleaseIsPulled) {
  const auto without_server = host.run(with_kms({}));
  EXPECT_EQ(without_server.exit_code, 1);
  EXPECT_THAT(without_server.err, HasSubstr("dstackup image build"));
  EXPECT_FALSE(fs::exists(host.layout().state)) << "refused, yet begun";
  const auto done = host.run(with_kms(from_server()));
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(host.state().image, "dstack-0.6.0");
  EXPECT_EQ(host.state().os_image_hash, crypto::sha256_hex(files["sha256sum.txt"]));
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallImage, WithoutAKmsNothingIsPulledUnasked) {
  const auto done = host.run(host.install(from_server()));
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(server->asked(), IsEmpty());
  EXPECT_EQ(host.state().image, std::nullopt);
}

TEST_F(InstallImage, WhatIsNotAsTheReleaseSaysIsNotInstalled) {
  const auto install = [&] { return host.run(host.install(from_server({"--image", "0.6.0"}))); };
  digest = "";
  EXPECT_THAT(install().err, AllOf(HasSubstr("names no sha256"), HasSubstr("DS1651")));
  digest = "sha256:" + std::string(64, '0');
  EXPECT_THAT(install().err, HasSubstr("could not be pulled"));
  // The archive is as the release says, but the image in it has no digest to pin.
  files.erase("digest.txt");
  archive = dstack::host::test::image_tar(files);
  digest = "sha256:" + crypto::sha256_hex(archive);
  EXPECT_THAT(install().err, HasSubstr("could not be pulled"));
  EXPECT_FALSE(fs::exists(host.layout().state_file()));
  EXPECT_FALSE(fs::exists(host.layout().images() / "dstack-0.6.0"));
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallImage, WhatIsNoReleaseAndNotHereIsRefused) {
  for (const auto* name : {"dstack-dev-0.6.0", "mine", "0.6", "../x"}) {
    const auto refused = host.run(host.install(from_server({"--image", name})));
    EXPECT_EQ(refused.exit_code, 1) << name;
    EXPECT_THAT(refused.err, HasSubstr(name));
  }
  EXPECT_THAT(server->asked(), IsEmpty());
}

TEST_F(InstallImage, AHostThatIsNotReadyFetchesNothing) {
  const auto taken = net::listen_on_tcp("127.0.0.1", 9080);
  ASSERT_TRUE(taken);
  const auto refused = host.run(host.install(from_server({"--image", "0.6.0"})));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("--dashboard-port"));
  EXPECT_THAT(server->asked(), IsEmpty());
}

// The record that destroy leaves keeps it for the next install; it was refused without a word about that.
TEST_F(InstallImage, AnInstallationThatWasTakenDownKeepsItsImageAndSaysHowToLetGo) {
  ASSERT_EQ(host.run(host.install(from_server({"--image", "0.6.0"}))).exit_code, 0);
  ASSERT_EQ(host.run(host.destroy({})).exit_code, 0);
  const auto dstackup = [&](std::vector<std::string> argv) {
    argv.insert(argv.begin(), (test::sandbox_programs() / "dstackup").string());
    return host.run(argv);
  };
  EXPECT_THAT(dstackup({"image", "list"}).out, HasSubstr("kept"));
  const auto refused = dstackup({"image", "rm", "dstack-0.6.0"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err,
              AllOf(HasSubstr("taken down"), HasSubstr("destroy --purge"), HasSubstr("--force")));
  const auto asked = server->asked().size();
  ASSERT_EQ(host.run(host.install()).exit_code, 0);
  EXPECT_EQ(host.state().image, "dstack-0.6.0") << "install goes on with it";
  ASSERT_EQ(host.run(host.destroy({})).exit_code, 0);
  EXPECT_EQ(dstackup({"image", "rm", "dstack-0.6.0", "--force"}).exit_code, 0);
  EXPECT_EQ(host.run(host.install()).exit_code, 0) << "without it, install chooses again";
  EXPECT_EQ(host.state().image, std::nullopt);
  EXPECT_EQ(server->asked().size(), asked);
}
