// install and destroy killed while there is a KMS in a real VM: the next install goes on with it, an app gets
// its keys, and destroy leaves nothing.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <fstream>
#include <iostream>
#include <thread>

#include "base/format.h"
#include "base/fs.h"
#include "e2e/lab.h"
#include "host/state.h"
#include "host/vm_record.h"
#include "integration/strace_points.h"

namespace fs = std::filesystem;
using namespace dstack;
using namespace dstack::e2e;
using Clock = std::chrono::steady_clock;

namespace {

// An installation of its own with the shared one's images and volumes.
Lab own_lab() {
  auto lab = Lab::open();
  const auto shared = lab.state();
  lab.prefix = lab.directory / "crash";
  fs::create_directories(lab.state());
  for (const char* name : {"images", "volumes"}) {
    const auto copied = base::run_checked(
        {.argv = {"cp", "-a", "--reflink=auto", (shared / name).string(), (lab.state() / name).string()},
         .timeout = std::chrono::minutes(5)});
    EXPECT_TRUE(copied) << (copied ? "" : copied.error().what());
  }
  return lab;
}

std::vector<std::string> argv_of(const Lab& lab, std::vector<std::string> argv) {
  argv[0] = (lab.programs / argv[0]).string();
  argv.insert(argv.end(), {"--prefix", lab.prefix.string()});
  return argv;
}

// Starts an install and kills it as soon as `is_time`; false when it ended before that.
bool kill_install_when(const std::vector<std::string>& argv, const std::function<bool()>& is_time) {
  base::Spawn what{.argv = argv};
  const auto pid = base::spawn(what);
  EXPECT_TRUE(pid) << (pid ? "" : pid.error().what());
  int status = 0;
  for (const auto end = Clock::now() + std::chrono::minutes(4); Clock::now() < end;) {
    if (::waitpid(*pid, &status, WNOHANG) == *pid) {
      return false;
    }
    if (is_time()) {
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ::kill(*pid, SIGKILL);
  ::waitpid(*pid, &status, 0);
  return WIFSIGNALED(status);
}

host::InstallState state_of(const Lab& lab) {
  const auto state = host::load_state(lab.state() / "dstackup-state.json");
  return state && *state ? **state : host::InstallState{};
}

}  // namespace

TEST(Crash, AnInstallWithAKmsGoesOnAndTheAppGetsItsKeys) {
  const auto lab = own_lab();
  const auto install = argv_of(
      lab, {"dstackup", "install", "--platform", "simulated", "--dashboard-port", std::to_string(free_port()),
            "--auth-port", std::to_string(free_port()), "--host-api-port", std::to_string(free_port())});
  const auto vms = lab.state() / "vm";
  const auto vm_made = [&] {
    std::error_code error;
    for (fs::directory_iterator it(vms, error), end; !error && it != end; it.increment(error)) {
      if (!it->path().filename().string().starts_with('.')) {
        return true;
      }
    }
    return false;
  };
  // As soon as the KMS's VM begins to exist, when it is recorded, and while it boots.
  ASSERT_TRUE(kill_install_when(install, vm_made));
  ASSERT_TRUE(
      kill_install_when(install, [&] { return state_of(lab).kms_vm_id && !host::live_vms(vms).empty(); }));
  const auto token = base::read_file(lab.config() / "vmm-auth-token").value_or("");
  const auto id = state_of(lab).kms_vm_id;
  ASSERT_TRUE(id);
  const auto soon = Clock::now() + std::chrono::seconds(6);
  ASSERT_TRUE(kill_install_when(install, [&] { return Clock::now() > soon; }));

  const auto done = lab.run({"dstackup", "install", "--platform", "simulated"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const auto state = state_of(lab);
  EXPECT_EQ(state.kms_vm_id, id) << "the VM that was booting is the one that is used";
  EXPECT_FALSE(state.kms_ca_sha256.empty());
  EXPECT_EQ(base::read_file(lab.config() / "vmm-auth-token").value_or(""), token);

  // With nothing left to do, nothing is written.
  if (test::strace_problem().empty()) {
    base::Output output;
    const auto begin = Clock::now();
    const auto changes = test::changes_to_files(
        argv_of(lab, {"dstackup", "install", "--platform", "simulated"}),
        {lab.state() / "install.lock", lab.state() / "journal", lab.config() / "auth-allowlist.json.lock"},
        output);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_EQ(changes, std::vector<std::string>());
    std::cout << "converged, under strace: " << std::chrono::duration<double>(Clock::now() - begin).count()
              << " s\n";
  }

  const auto port = free_port();
  const auto deployed =
      lab.run({"dstack", "deploy", "-c", (lab.source / "examples/hello-nginx/docker-compose.yaml").string(),
               "-n", "hello", "--port", std::to_string(port) + ":80"});
  ASSERT_EQ(deployed.exit_code, 0) << deployed.err;
  HttpAnswer page;
  for (int i = 0; i < 40 && page.status != 200; ++i) {
    page = get(port);
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
  }
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(state_of(lab).kms_ca_sha256, state.kms_ca_sha256);
}

TEST(Crash, ADestroyThatWasKilledIsFinished) {
  auto lab = Lab::open();
  lab.prefix = lab.directory / "crash";
  ASSERT_TRUE(fs::exists(lab.state())) << "the test before leaves an installation";
  // Once with the VMs still there, once among the files.
  for (const auto& call : {test::SystemCall{"kill", 1, ""}, test::SystemCall{"unlinkat", 20, ""}}) {
    if (test::strace_problem().empty()) {
      test::run_with_fault(argv_of(lab, {"dstackup", "destroy", "--purge"}), call, "signal=KILL");
    }
  }
  const auto output = lab.run({"dstackup", "destroy", "--purge"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(tree(lab.prefix), std::vector<std::string>{});
  EXPECT_EQ(processes_naming(lab.prefix.string()), std::vector<std::string>{});
  fs::remove_all(lab.prefix);
}
