// What install and destroy leave to others: their files, their addresses, and a host on which nothing of ours
// is left, also after an install that was refused. Real programs, no VM.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <set>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/host_lock.h"
#include "host/state.h"
#include "integration/installed_host.h"

namespace fs = std::filesystem;
using namespace dstack;
using test::InstalledHost;
using testing::AnyOf;
using testing::HasSubstr;

namespace {

class InstallResidue : public test::OnInstalledHost {};

void write_all(const std::vector<fs::path>& paths) {
  for (const auto& path : paths) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << "text";
  }
}

}  // namespace

// At the same time, each with ports and a directory of its own: they see only what runs already.
TEST_F(InstallResidue, InstallsBesideEachOtherChooseDifferentAddresses) {
  std::vector<InstalledHost> hosts;
  for (const auto* prefix : {"/srv/r1", "/srv/r2", "/srv/r3", "/srv/r4"}) {
    const auto port = [&](int first) { return std::to_string(first + static_cast<int>(hosts.size())); };
    hosts.emplace_back(prefix, std::vector<std::string>{"--dashboard-port", port(9100), "--auth-port",
                                                        port(9200), "--host-api-port", port(9300)});
  }
  hosts[0].remember_clean();
  std::vector<pid_t> children;
  for (const auto& one : hosts) {
    const auto pid = base::spawn({.argv = one.install()});
    ASSERT_TRUE(pid);
    children.push_back(*pid);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  std::set<std::uint32_t> windows;
  for (const auto& one : hosts) {
    const auto state = host::load_state(one.layout().state_file());
    ASSERT_TRUE(state && *state);
    windows.insert((*state)->cid_start);
    EXPECT_THAT(base::read_file(one.layout().vmm_toml()).value_or(""),
                HasSubstr(base::format("cid_start = {}\n", (*state)->cid_start)));
  }
  EXPECT_THAT(windows, testing::ElementsAre(1000, 2000, 3000, 4000));
  for (const auto& one : hosts) {
    EXPECT_EQ(one.not_converged(), "");
    EXPECT_EQ(one.run(one.destroy()).exit_code, 0);
  }
  EXPECT_EQ(hosts[0].take_away(), "");
}

TEST_F(InstallResidue, AnInstallWaitsForTheOneThatChooses) {
  auto lock = host::HostLock::acquire({});
  ASSERT_TRUE(lock && lock->held());
  base::Output output;
  std::thread install([&] { output = host.run(host.install()); });
  ::usleep(1'500'000);
  EXPECT_FALSE(fs::exists(host.layout().vmm_toml())) << "it does not wait";
  {
    const auto freed = std::move(*lock);
  }
  install.join();
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, HasSubstr(base::format("another dstackup (process {})", ::getpid())));
  // With nothing to choose it waits for nobody.
  {
    const auto again = host::HostLock::acquire({});
    ASSERT_TRUE(again && again->held());
    EXPECT_EQ(host.not_converged(), "");
  }
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallResidue, ForeignFilesSurviveAndAreReported) {
  ASSERT_EQ(host.go_on(), "");
  const auto& l = host.layout();
  const auto versions = l.libexec / "versions";
  const std::vector<fs::path> foreign = {l.config / "notes.txt",
                                         l.state / "mine.db",
                                         l.vms() / "list.txt",
                                         l.vms() / "backups/disk.img",
                                         l.vms() / ".hidden",
                                         l.images() / "README",
                                         l.images() / "myimg/disk.raw",
                                         l.images() / ".git/HEAD",
                                         l.volumes() / "data.bin",
                                         l.volumes() / "no-volume.img",
                                         l.volumes() / "shared/file",
                                         l.logs() / "mine.log",
                                         l.logs() / "old/dstack-vmm.log",
                                         l.simulated_tee() / "seed.bak",
                                         l.run / "other.sock",
                                         l.run / "other/pid",
                                         versions / "README",
                                         versions / "mine/dstack-vmm"};
  // Ours, whoever put it there: known by what it is, or in a cache.
  const std::vector<fs::path> ours = {l.images() / "dstack-9/metadata.json",
                                      l.images() / "dstack-9/notes.txt",
                                      l.images() / ".build/half",
                                      l.vms() / "0f0e0d0c-0b0a-4908-8706-050403020100/disk",
                                      l.vms() / "imported/vm-manifest.json",
                                      l.volumes() / ".add-ABCDEF/layer",
                                      l.logs() / "dstack-vmm.log.1",
                                      l.simulated_tee() / ".seed.0123.tmp",
                                      l.cache / "trees/anything"};
  write_all(foreign);
  write_all(ours);
  fs::create_directory("/srv/elsewhere");
  std::ofstream("/srv/elsewhere/file") << "mine";
  fs::create_directory_symlink("/srv/elsewhere", l.vms() / "link");
  const auto expect_kept = [&](const base::Output& output, const fs::path& below) {
    EXPECT_EQ(output.exit_code, 0) << output.err;
    for (const auto& path : foreign) {
      EXPECT_TRUE(fs::exists(path)) << path;
      if (path.string().starts_with(below.string())) {
        // Itself or the directory that it came with.
        EXPECT_THAT(output.err, AnyOf(HasSubstr("kept " + path.string() + ","),
                                      HasSubstr("kept " + path.parent_path().string() + ",")));
      }
    }
  };
  expect_kept(host.run(host.destroy({})), l.run);
  const auto output = host.run(host.destroy());
  expect_kept(output, "/");
  for (const auto& path : ours) {
    EXPECT_FALSE(fs::exists(path)) << path;
  }
  EXPECT_THAT(output.err, HasSubstr("removed " + (l.images() / "dstack-9").string()));
  EXPECT_TRUE(fs::exists("/srv/elsewhere/file"));
  EXPECT_FALSE(fs::exists(l.token_file()));
  EXPECT_FALSE(fs::exists(l.journal()));
  expect_kept(host.run(host.destroy()), l.state);
  // When their owner has taken them away, another purge takes the directories.
  for (const auto& path : foreign) {
    const auto parent = path.parent_path();
    fs::remove(path);
    std::error_code full;
    fs::remove(parent, full);
  }
  fs::remove(l.vms() / "link");
  fs::remove_all("/srv/elsewhere");
  EXPECT_EQ(host.run(host.destroy()).exit_code, 0);
  // Outside of the state directory nobody knows any more that they were made for us.
  std::error_code gone;
  fs::remove(versions, gone);
  fs::remove(l.libexec, gone);
  fs::remove(l.libexec.parent_path(), gone);
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallResidue, DestroyTwiceAndWhereNothingIs) {
  const auto nothing = host.run(host.destroy());
  EXPECT_EQ(nothing.exit_code, 0);
  EXPECT_THAT(nothing.out, HasSubstr("nothing is installed"));
  EXPECT_EQ(host.take_away(), "");
  ASSERT_EQ(host.go_on(), "");
  const auto identity = host.identity();
  for (int time = 0; time < 2; ++time) {
    EXPECT_EQ(host.run(host.destroy({})).exit_code, 0);
  }
  EXPECT_EQ(host.go_on(), "");
  EXPECT_EQ(host.identity(), identity) << "a second destroy without --purge loses nothing";
  EXPECT_EQ(host.run(host.destroy({})).exit_code, 0);
  EXPECT_EQ(host.take_away(), "");
  const auto again = host.run(host.destroy());
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("nothing is installed"));
  EXPECT_EQ(host.take_away(), "");
}

// Whatever a check or the plan refuses, the host is as it was.
TEST_F(InstallResidue, ARefusedInstallLeavesNothing) {
  const base::Fd busy(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ASSERT_EQ(::setsockopt(busy.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(9080);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(busy.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(busy.get(), 1), 0);
  const auto before = test::host_snapshot({"/srv"});
  const std::string dstackup = test::sandbox_programs() / "dstackup";
  const std::string qemu = test::stand_in_qemu();
  const auto with = [&](std::vector<std::string> flags) {
    flags.insert(flags.end(), {"--dashboard-port", "9081"});
    return host.install(flags);
  };
  const std::vector<std::vector<std::string>> refused = {
      host.install(),                       // the port is taken
      with({"--auth-port", "9081"}),        // twice the same port
      with({"--cid-start", "4294967295"}),  // no room for a window
      with({"--image", "none-such"}),
      with({"--instance", "a/b"}),
      InstalledHost("/srv/deep/er/p").install(),
      {dstackup, "install", "--platform", "tdx", "--no-kms", "--dashboard-port", "9081", "--qemu", qemu},
      // A KMS, and no guest image.
      {dstackup, "install", "--platform", "simulated", "--dashboard-port", "9081", "--qemu", qemu}};
  for (const auto& argv : refused) {
    SCOPED_TRACE(testing::PrintToString(argv));
    const auto output = host.run(argv);
    EXPECT_NE(output.exit_code, 0) << output.out;
    EXPECT_NE(output.err, "");
    EXPECT_EQ(test::difference(before, test::host_snapshot({"/srv"})), "");
  }
  // With an installation there, a refused change leaves that as it is.
  ASSERT_EQ(host.run(host.install({"--dashboard-port", "9082"})).exit_code, 0);
  const auto installed = test::host_snapshot();
  for (const auto& flags : {std::vector<std::string>{"--dashboard-port", "9080"}, {"--instance", "other"}}) {
    EXPECT_NE(host.run(host.install(flags)).exit_code, 0);
    EXPECT_EQ(test::difference(installed, test::host_snapshot()), "");
  }
  EXPECT_EQ(host.run(host.destroy()).exit_code, 0);
  EXPECT_EQ(test::difference(before, test::host_snapshot({"/srv"})), "");
}
