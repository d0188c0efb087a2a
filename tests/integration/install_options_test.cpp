// What install's options make: a VMM on the network behind TLS, two installations on one host, files without
// services, an archive for those who help. Real programs, no VM.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/journal.h"
#include "host/ports.h"
#include "host/state.h"
#include "host/tls_identity.h"
#include "integration/installed_host.h"
#include "unit/host/release_server.h"

namespace fs = std::filesystem;
using namespace dstack;
using test::InstalledHost;
using testing::HasSubstr;
using testing::Not;

namespace {

constexpr const char* k_address = "127.0.0.2";  // as good as any other of the host's but the API's own

base::Output run(std::vector<std::string> argv, std::vector<std::string> environment = {}) {
  argv[0] = (test::sandbox_programs() / argv[0]).string();
  auto output = base::run(
      {.argv = std::move(argv), .environment = std::move(environment), .timeout = std::chrono::seconds(60)});
  return output ? *output : base::Output{.exit_code = -1, .out = {}, .err = output.error().what()};
}

class InstallOptions : public test::OnInstalledHost {
 protected:
  void TearDown() override {
    OnInstalledHost::TearDown();
    if (test::sandbox_problem().empty()) {
      std::error_code ignored;
      fs::remove_all("/tmp/known", ignored);
    }
  }
};

bool listens(const std::string& ip, std::uint16_t port) {
  const auto free = host::port_is_free(ip, port);
  return free && !*free;
}

}  // namespace

TEST_F(InstallOptions, AnExposedVmmIsReachedByWhoPinsItAndHasTheToken) {
  const auto installed = host.run(host.install({"--expose", k_address}));
  ASSERT_EQ(installed.exit_code, 0) << installed.err;
  const auto fingerprint = host::read_fingerprint(host.layout().tls_cert());
  ASSERT_TRUE(fingerprint);
  EXPECT_THAT(installed.out, HasSubstr("https://127.0.0.2:9080, certificate " + *fingerprint));
  struct stat info = {};
  ASSERT_EQ(::stat(host.layout().tls_key().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  const auto journal = host::Journal::read(host.layout().journal());
  ASSERT_TRUE(journal);
  std::set<std::string> names;
  for (const auto& entry : *journal) {
    names.insert(entry.name);
  }
  EXPECT_TRUE(names.contains(host.layout().tls_key().string()));
  EXPECT_TRUE(names.contains(host.layout().tls_cert().string()));
  EXPECT_EQ(host.not_converged(), "");

  const std::vector<std::string> ask = {"dstack", "apps", "--host", "https://127.0.0.2:9080"};
  const auto token =
      "DSTACK_VMM_TOKEN=" + std::string(base::trim(*base::read_file(host.layout().token_file())));
  const std::string home = "XDG_CONFIG_HOME=/tmp/known";
  const auto unknown = run(ask, {token, home});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_THAT(unknown.err, AllOf(HasSubstr("DS2012"), HasSubstr("not known yet"), HasSubstr(*fingerprint)));
  const auto wrong = run(ask, {token, home, "DSTACK_VMM_FINGERPRINT=" + std::string(64, '0')});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.err, AllOf(HasSubstr("DS2012"), HasSubstr("not the VMM that was pinned")));
  const auto without_token = run(ask, {home, "DSTACK_VMM_FINGERPRINT=" + *fingerprint});
  EXPECT_EQ(without_token.exit_code, 1);
  EXPECT_THAT(without_token.err, HasSubstr("DS1301"));
  auto pinned = ask;
  pinned.insert(pinned.end(), {"--fingerprint", *fingerprint});
  const auto good = run(pinned, {token, home});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  const auto again = run(ask, {token, home});
  EXPECT_EQ(again.exit_code, 0) << "the pin was not kept: " << again.err;
  const auto probe = run({"dstackup", "status", "--host", "https://127.0.0.2:9080"}, {token, home});
  EXPECT_EQ(probe.exit_code, 0) << probe.err;
  EXPECT_THAT(probe.out, HasSubstr("vmm: https://127.0.0.2:9080 => reachable"));
  // In clear text nothing is served there.
  const auto plain = run({"dstack", "apps", "--host", "http://127.0.0.2:9080"}, {token, home});
  EXPECT_NE(plain.exit_code, 0);
  const auto status = run({"dstackup", "status"});
  EXPECT_THAT(status.out, HasSubstr(*fingerprint));

  // A lost key is made anew and served.
  ASSERT_TRUE(base::remove_file(host.layout().tls_key()));
  ASSERT_EQ(host.run(host.install()).exit_code, 0);
  const auto renewed = host::read_fingerprint(host.layout().tls_cert());
  EXPECT_NE(*renewed, *fingerprint);
  EXPECT_EQ(run(ask, {token, home, "DSTACK_VMM_FINGERPRINT=" + *renewed}).exit_code, 0);

  ASSERT_EQ(host.run(host.install({"--expose", "none"})).exit_code, 0);
  EXPECT_FALSE(listens(k_address, 9080));
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallOptions, WhatCannotBeExposedIsRefusedBeforeAnythingIsTouched) {
  const auto before = test::host_snapshot();
  for (const auto* bad : {"0.0.0.0", "::", "127.0.0.1", "192.0.2.99", "somewhere"}) {
    const auto refused = host.run(host.install({"--expose", bad}));
    EXPECT_EQ(refused.exit_code, 1) << bad;
    EXPECT_THAT(refused.err, HasSubstr("--expose")) << bad;
  }
  EXPECT_EQ(test::difference(before, test::host_snapshot()), "");
}

TEST_F(InstallOptions, TwoInstallationsDoNotDisturbOneAnother) {
  const InstalledHost other{"/var/lib/other"};
  ASSERT_EQ(host.run(host.install()).exit_code, 0);
  const auto busy = other.run(other.install());
  EXPECT_EQ(busy.exit_code, 1);
  EXPECT_THAT(busy.err, HasSubstr("--dashboard-port"));
  EXPECT_FALSE(fs::exists(other.layout().config)) << "refused, yet begun";
  const auto second = other.run(
      other.install({"--dashboard-port", "9180", "--auth-port", "8101", "--host-api-port", "10100"}));
  ASSERT_EQ(second.exit_code, 0) << second.err;
  const auto mine = host.state();
  const auto theirs = other.state();
  EXPECT_NE(mine.vmm_unit, theirs.vmm_unit);
  EXPECT_NE(mine.auth_unit, theirs.auth_unit);
  EXPECT_GE(theirs.cid_start, mine.cid_start + 1000) << "the windows of vsock addresses overlap";
  EXPECT_NE(*base::read_file(host.layout().token_file()), *base::read_file(other.layout().token_file()));
  host.register_app();
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(other.not_converged(), "");
  const auto identity = host.identity();
  const auto gone = other.run(other.destroy());
  EXPECT_EQ(gone.exit_code, 0) << gone.err;
  EXPECT_FALSE(fs::exists("/var/lib/other"));
  EXPECT_FALSE(listens("127.0.0.1", 9180));
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.identity(), identity);
  EXPECT_TRUE(host.has_app());
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallOptions, InstancesOfOneHostHaveNamesOfTheirOwn) {
  const auto refused = host.run(host.install({"--instance", "a/b"}));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("--instance"));
  ASSERT_EQ(host.run(host.install({"--instance", "blue"})).exit_code, 0);
  EXPECT_EQ(host.state().vmm_unit, "dstack-vmm-blue");
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallOptions, NoStartWritesFilesAndStartsNothing) {
  const auto configured = host.run(host.install({"--no-start"}));
  ASSERT_EQ(configured.exit_code, 0) << configured.err;
  EXPECT_THAT(configured.out, HasSubstr("nothing was started"));
  EXPECT_TRUE(fs::exists(host.layout().vmm_toml()));
  EXPECT_TRUE(fs::exists(host.layout().token_file()));
  EXPECT_FALSE(listens("127.0.0.1", 9080));
  EXPECT_FALSE(listens("127.0.0.1", 8001));
  const auto identity = host.identity();
  EXPECT_EQ(host.go_on(), "");
  EXPECT_EQ(host.identity(), identity);
  ASSERT_EQ(host.run(host.destroy()).exit_code, 0);
  ASSERT_EQ(host.run(host.install({"--no-start"})).exit_code, 0);
  EXPECT_EQ(host.take_away(), "") << "destroy of what never ran";
}

TEST_F(InstallOptions, ADirectoryOfImagesStaysItsOwners) {
  ASSERT_TRUE(base::make_dirs("/tmp/images"));
  ASSERT_TRUE(base::write_file_atomic("/tmp/images/mine", "mine"));
  ASSERT_EQ(host.run(host.install({"--image-path", "/tmp/images"})).exit_code, 0);
  EXPECT_THAT(*base::read_file(host.layout().vmm_toml()), HasSubstr("path = \"/tmp/images\""));
  EXPECT_EQ(host.not_converged(), "") << "the next install does not know it";
  EXPECT_THAT(*base::read_file(host.layout().vmm_toml()), HasSubstr("path = \"/tmp/images\""));
  EXPECT_EQ(host.take_away(), "");
  EXPECT_EQ(base::read_file("/tmp/images/mine"), "mine");
  fs::remove_all("/tmp/images");
  const auto refused = host.run(host.install({"--image-path", "relative"}));
  EXPECT_THAT(refused.err, HasSubstr("--image-path"));
}

// They looked in the default directory, or took the pin away when the path was written differently.
TEST_F(InstallOptions, ImageVerbsKnowTheDirectoryOfImages) {
  const fs::path images = "/tmp/images";
  ASSERT_TRUE(base::make_dirs(images / "one"));
  for (const auto& [name, data] : dstack::host::test::image_files()) {
    ASSERT_TRUE(base::write_file_atomic(images / "one" / name, data));
  }
  fs::create_directory_symlink(images, "/tmp/link");
  ASSERT_EQ(host.run(host.install({"--image-path", images.string()})).exit_code, 0);
  const auto dstackup = [&](std::vector<std::string> argv) {
    argv.insert(argv.begin(), (test::sandbox_programs() / "dstackup").string());
    return host.run(argv);
  };
  EXPECT_THAT(dstackup({"__complete", "images"}).out, HasSubstr("one"));
  for (const auto& place : std::vector<std::vector<std::string>>{
           {}, {"--image-path", "/tmp/images/"}, {"--image-path", "/tmp/link"}}) {
    const auto with_place = [&](std::vector<std::string> argv) {
      argv.insert(argv.end(), place.begin(), place.end());
      return dstackup(argv);
    };
    EXPECT_THAT(with_place({"image", "list", "--json"}).out, HasSubstr(R"("pinned":true)"));
    EXPECT_THAT(with_place({"image", "rm", "one"}).err, HasSubstr("the installation pins it"));
  }
  const auto record = *base::read_file(host.layout().state_file());
  ASSERT_TRUE(base::write_file_atomic(host.layout().state_file(), "{"));
  EXPECT_THAT(dstackup({"image", "rm", "one"}).err, HasSubstr("DS1601"));
  EXPECT_THAT(dstackup({"image", "list"}).err, HasSubstr("DS1601"));
  EXPECT_THAT(dstackup({"image", "build"}).err, HasSubstr("DS1601"));
  ASSERT_TRUE(base::write_file_atomic(host.layout().state_file(), record));
  EXPECT_TRUE(fs::exists(images / "one/bzImage"));
  EXPECT_EQ(dstackup({"image", "rm", "one", "--force"}).exit_code, 0);
  EXPECT_FALSE(fs::exists(images / "one"));
  fs::remove_all(images);
  fs::remove("/tmp/link");
}

TEST_F(InstallOptions, FlagsOfTdxAreRefusedElsewhere) {
  const auto before = test::host_snapshot();
  for (const auto& flags :
       std::vector<std::vector<std::string>>{{"--key-provider-port", "3500"},
                                             {"--use-existing-key-provider", "127.0.0.1:3443"},
                                             {"--key-provider-src", "/tmp"}}) {
    const auto refused = host.run(host.install(flags));
    EXPECT_EQ(refused.exit_code, 1) << flags[0];
    EXPECT_THAT(refused.err, AllOf(HasSubstr(flags[0]), HasSubstr("tdx"))) << flags[0];
  }
  EXPECT_EQ(test::difference(before, test::host_snapshot()), "");
}

TEST_F(InstallOptions, TheArchiveForSupportHoldsNoSecret) {
  ASSERT_EQ(host.run(host.install({"--expose", k_address})).exit_code, 0);
  const std::string token(base::trim(*base::read_file(host.layout().token_file())));
  const std::string seed(base::trim(*base::read_file(host.layout().simulated_seed())));
  const auto key = *base::read_file(host.layout().tls_key());
  const auto key_line = key.substr(key.find('\n') + 1, 64);
  ASSERT_TRUE(base::write_file_atomic(host.layout().logs() / "extra.log",
                                      "token " + token + "\nseed " + seed + "\n"));
  const auto pack = [&] {
    const auto packed = run({"dstackup", "support", "--output", "/tmp/support.tar.gz"});
    EXPECT_EQ(packed.exit_code, 0) << packed.err;
    EXPECT_THAT(packed.out,
                AllOf(HasSubstr("config/vmm.toml"), HasSubstr("doctor.txt"), HasSubstr("state/journal")));
    const auto text =
        base::run({.argv = {"tar", "-xzOf", "/tmp/support.tar.gz"}, .output_limit = 128UL << 20});
    EXPECT_TRUE(text);
    fs::remove("/tmp/support.tar.gz");
    return text ? text->out : std::string();
  };
  const auto text = pack();
  EXPECT_THAT(text, AllOf(HasSubstr("vmm-service"), HasSubstr("[expose]"), HasSubstr("exit code 0")));
  for (const auto& secret : {token, seed, key_line}) {
    EXPECT_EQ(text.find(secret), std::string::npos);
  }
  // It is for broken installations above all.
  ASSERT_TRUE(base::write_file_atomic(host.layout().state_file(), "broken " + token));
  const auto broken = pack();
  EXPECT_THAT(broken, HasSubstr("broken [redacted]"));
  EXPECT_EQ(broken.find(token), std::string::npos);
}
