// install and destroy killed while there is a KMS in a real VM: the next install goes on with it, an app gets
// its keys, and destroy leaves nothing.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <array>
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

std::vector<std::string> install_argv(const Lab& lab) {
  return argv_of(
      lab, {"dstackup", "install", "--platform", "simulated", "--dashboard-port", std::to_string(free_port()),
            "--auth-port", std::to_string(free_port()), "--host-api-port", std::to_string(free_port())});
}

// Deploys an app that needs keys; true when its page comes.
bool app_gets_its_keys(const Lab& lab) {
  const auto port = free_port();
  const auto deployed =
      lab.run({"dstack", "deploy", "-c", (lab.source / "examples/hello-nginx/docker-compose.yaml").string(),
               "-n", "hello", "--port", std::to_string(port) + ":80"});
  EXPECT_EQ(deployed.exit_code, 0) << deployed.err;
  for (int i = 0; deployed.exit_code == 0 && i < 40; ++i) {
    if (get(port).status == 200) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
  }
  return false;
}

void expect_nothing_left(const Lab& lab) {
  const auto output = lab.run({"dstackup", "destroy", "--purge"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(tree(lab.prefix), std::vector<std::string>{});
  EXPECT_EQ(processes_naming(lab.prefix.string()), std::vector<std::string>{});
  fs::remove_all(lab.prefix);
}

host::InstallState state_of(const Lab& lab) {
  const auto state = host::load_state(lab.state() / "dstackup-state.json");
  return state && *state ? **state : host::InstallState{};
}

}  // namespace

TEST(Crash, AnInstallWithAKmsGoesOnAndTheAppGetsItsKeys) {
  const auto lab = own_lab();
  const auto install = install_argv(lab);
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

  EXPECT_TRUE(app_gets_its_keys(lab));
  EXPECT_EQ(state_of(lab).kms_ca_sha256, state.kms_ca_sha256);
}

TEST(Crash, ADestroyThatWasKilledIsFinished) {
  auto lab = Lab::open();
  lab.prefix = lab.directory / "crash";
  ASSERT_TRUE(fs::exists(lab.state())) << "the test before leaves an installation";
  ASSERT_EQ(host::live_vms(lab.state() / "vm").size(), 2U);
  if (test::strace_problem().empty()) {
    const auto destroy = argv_of(lab, {"dstackup", "destroy", "--purge"});
    // Once with the VMs still there, once among the files.
    const auto early = test::run_with_fault(destroy, {"connect", 1, ""}, "signal=KILL");
    EXPECT_TRUE(early.hit) << early.output.err;
    EXPECT_EQ(host::live_vms(lab.state() / "vm").size(), 2U);
    const auto late = test::run_with_fault(destroy, {"unlinkat", 8, ""}, "signal=KILL");
    EXPECT_TRUE(late.hit) << late.output.err;
    EXPECT_TRUE(host::live_vms(lab.state() / "vm").empty());
    EXPECT_TRUE(fs::exists(lab.state() / "journal"));
  }
  expect_nothing_left(lab);
}

// The stage that makes the KMS, killed at each of its boundaries; each time from nothing. The places: its
// record, and the one of its VM's id, synced or about to be; that id, the root certificate and the end about
// to be saved.
TEST(Crash, TheKmsStageKilledAtEachBoundary) {
  if (const auto problem = test::strace_problem(); !problem.empty()) {
    GTEST_SKIP() << problem;
  }
  auto lab = own_lab();
  const auto certificate = (lab.config() / "kms-ca.pem").string();
  // The last that a clean run writes down is what this stage does, whatever it asks and waits for in between.
  base::Output output;
  auto calls = test::trace_calls(install_argv(lab), output);
  ASSERT_EQ(output.exit_code, 0) << output.err;
  expect_nothing_left(lab);
  std::erase_if(calls, [](const test::SystemCall& call) {
    return call.name != "rename" &&
           (call.name != "fdatasync" || call.line.find("/journal>") == std::string::npos);
  });
  struct Place {
    const char* what;
    const char* call;
    bool vm;          // is there one?
    bool always;      // else in the full sweep only
    bool to_the_end;  // an app is deployed
  };
  const std::array<Place, 6> places = {
      {{"the KMS is recorded, not made", "fdatasync", false, true, false},
       {"so is its root, not there", "fdatasync", false, false, false},
       {"its VM is made, its id recorded", "fdatasync", true, false, false},
       {"its id is not saved", "rename", true, true, false},
       {"it answers, its root is not in place", "rename", true, false, false},
       {"its root is in place, and not pinned", "rename", true, true, true}}};
  ASSERT_GT(calls.size(), places.size());
  calls.erase(calls.begin(), calls.end() - static_cast<std::ptrdiff_t>(places.size()));
  for (std::size_t i = 0; i < places.size(); ++i) {
    const auto& place = places[i];
    ASSERT_EQ(calls[i].name, place.call) << calls[i].line;
    if (!place.always && !test::full_sweep()) {
      continue;
    }
    SCOPED_TRACE(place.what);
    lab = own_lab();
    const auto install = install_argv(lab);
    const auto killed = test::run_with_fault(install, calls[i], "signal=KILL");
    ASSERT_TRUE(killed.hit) << killed.output.err;
    const auto vms = host::live_vms(lab.state() / "vm");
    EXPECT_EQ(vms.size(), place.vm ? 1U : 0U);
    const auto token = base::read_file(lab.config() / "vmm-auth-token").value_or("");
    const auto root = base::read_file(certificate).value_or("");

    const auto done = lab.run({"dstackup", "install", "--platform", "simulated"});
    EXPECT_EQ(done.exit_code, 0) << done.err;
    const auto state = state_of(lab);
    EXPECT_FALSE(state.kms_ca_sha256.empty());
    if (!vms.empty()) {
      EXPECT_EQ(state.kms_vm_id.value_or(""), vms.front().id)
          << "the VM that was there is the one that is used";
    }
    EXPECT_EQ(base::read_file(lab.config() / "vmm-auth-token").value_or(""), token);
    EXPECT_TRUE(base::read_file(certificate).value_or("").starts_with(root));
    const auto again = lab.run({"dstackup", "install", "--platform", "simulated", "--json"});
    EXPECT_NE(again.out.find("\"changed\": false"), std::string::npos) << again.out;
    if (place.to_the_end || test::full_sweep()) {
      EXPECT_TRUE(app_gets_its_keys(lab));
    }
    expect_nothing_left(lab);
    if (HasFailure()) {
      return;
    }
  }
}
