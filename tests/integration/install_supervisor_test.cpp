// Where there is no systemd: an installation whose supervisor cannot be reached, hangs, or was killed while a
// service could not end. status says so, install mends it, destroy ends it all, each in bounded time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/format.h"
#include "base/fs.h"
#include "host/supervised_processes.h"
#include "integration/installed_host.h"

namespace fs = std::filesystem;
using namespace dstack;
using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

namespace {

class InstallSupervisor : public test::OnInstalledHost {
 protected:
  void SetUp() override {
    OnInstalledHost::SetUp();
    if (!IsSkipped()) {
      ASSERT_EQ(host.go_on(), "");
    }
  }

  host::SupervisedProcesses found() const { return host::find_supervised(host.layout()); }
  pid_t supervisor() const {
    const auto pids = found().supervisors;
    return pids.size() == 1 ? pids.front() : 0;
  }
  pid_t service(const std::string& name) const {
    for (const auto& service : found().services) {
      if (service.name == name) {
        return service.pid;
      }
    }
    return 0;
  }
  fs::path socket() const { return host.layout().supervisor_socket(); }

  std::vector<std::string> verb(const std::string& name) const {
    return {(test::sandbox_programs() / "dstackup").string(), name};
  }

  // Runs it, with a look at the clock.
  base::Output within(std::chrono::seconds limit, const std::vector<std::string>& argv) const {
    const auto begin = std::chrono::steady_clock::now();
    auto output = host.run(argv);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, limit) << argv.at(1) << ": " << output.err;
    return output;
  }
};

void expect_stopped(pid_t pid) {
  ASSERT_GT(pid, 1);
  ASSERT_EQ(::kill(pid, SIGSTOP), 0);
}

}  // namespace

TEST_F(InstallSupervisor, ALostSocketIsMadeAgain) {
  const auto pid = supervisor();
  ASSERT_TRUE(fs::remove(socket()));
  for (int i = 0; i < 1'500 && !fs::exists(socket()); ++i) {
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_TRUE(fs::exists(socket()));
  EXPECT_EQ(supervisor(), pid);
  EXPECT_EQ(host.run(verb("status")).exit_code, 0);
  // The whole directory too, with the lock in it.
  fs::remove_all(host.layout().run);
  for (int i = 0; i < 1'500 && !fs::exists(socket()); ++i) {
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(supervisor(), pid);
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallSupervisor, WithoutItsSocketInstallMendsIt) {
  const auto identity = host.identity();
  // Stopped, or it would mend it itself.
  const auto pid = supervisor();
  expect_stopped(pid);
  ASSERT_TRUE(fs::remove(socket()));
  const auto status = host.run(verb("status"));
  EXPECT_EQ(status.exit_code, 1);
  EXPECT_THAT(status.out, HasSubstr(base::format("the supervisor (pid {}) runs, but its socket", pid)));
  auto dry = host.install({"--dry-run"});
  const auto plan = host.run(dry);
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_EQ(supervisor(), pid) << "--dry-run changes nothing";
  const auto again = within(60s, host.install());
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(supervisor(), pid);
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.identity(), identity);
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallSupervisor, RightAfterItsSocketIsGoneInstallWorks) {
  ASSERT_TRUE(fs::remove(socket()));
  const auto again = within(60s, host.install());
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallSupervisor, WithoutItsSocketDestroyEndsItAll) {
  ASSERT_TRUE(fs::remove(socket()));
  const auto gone = within(40s, host.destroy());
  EXPECT_EQ(gone.exit_code, 0) << gone.err;
  EXPECT_TRUE(found().empty()) << found().text();
  EXPECT_EQ(host.left_behind(), "");
}

TEST_F(InstallSupervisor, OneThatHangsIsSaidAndMended) {
  const auto pid = supervisor();
  expect_stopped(pid);
  const auto line = base::format("the built-in supervisor (pid {}) does not answer", pid);
  const auto status = within(15s, verb("status"));
  EXPECT_EQ(status.exit_code, 1);
  EXPECT_THAT(status.out, AllOf(HasSubstr(line), HasSubstr("run 'dstackup install' again")));
  const auto doctor = within(15s, verb("doctor"));
  EXPECT_EQ(doctor.exit_code, 1);
  EXPECT_THAT(doctor.out, AllOf(HasSubstr(line), Not(HasSubstr("is in use by"))));
  const auto again = within(30s, host.install());
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(supervisor(), pid);
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallSupervisor, DestroyEndsOneThatHangs) {
  expect_stopped(supervisor());
  const auto gone = within(40s, host.destroy());
  EXPECT_EQ(gone.exit_code, 0) << gone.err;
  EXPECT_THAT(gone.err, HasSubstr("an answer of the built-in supervisor"));
  EXPECT_EQ(host.left_behind(), "");
}

// Stopped all the time, so that SIGTERM is not heard at all.
TEST_F(InstallSupervisor, WhatDoesNotHearIsKilled) {
  const auto pid = supervisor();
  const auto vmm = service("dstack-vmm");
  ASSERT_GT(vmm, 1);
  std::jthread hold([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      ::kill(pid, SIGSTOP);
      ::kill(vmm, SIGSTOP);
      std::this_thread::sleep_for(1ms);
    }
  });
  const auto gone = within(60s, host.destroy());
  hold.request_stop();
  hold.join();
  EXPECT_EQ(gone.exit_code, 0) << gone.err;
  EXPECT_EQ(host.left_behind(), "");
}

TEST_F(InstallSupervisor, DestroyEndsAVmmThatHangs) {
  expect_stopped(service("dstack-vmm"));
  const auto gone = within(40s, host.destroy());
  EXPECT_EQ(gone.exit_code, 0) << gone.err;
  EXPECT_EQ(host.left_behind(), "");
}

TEST_F(InstallSupervisor, InstallStartsAServiceThatHangsAgain) {
  for (const auto* name : {"dstack-vmm", "dstack-auth"}) {
    const auto pid = service(name);
    expect_stopped(pid);
    EXPECT_EQ(within(20s, verb("status")).exit_code, 1);
    const auto again = within(30s, host.install());
    EXPECT_EQ(again.exit_code, 0) << again.err;
    EXPECT_THAT(again.err, HasSubstr(base::format("{} runs and does not answer", name)));
    EXPECT_NE(service(name), pid);
    EXPECT_EQ(host.not_converged(), "");
  }
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallSupervisor, AServiceThatOutlivesAKilledSupervisorIsEnded) {
  for (const bool stopped : {true, false}) {
    SCOPED_TRACE(stopped);
    const auto vmm = service("dstack-vmm");
    if (stopped) {
      expect_stopped(vmm);
    }
    ASSERT_EQ(::kill(supervisor(), SIGKILL), 0);
    const auto again = within(60s, host.install());
    EXPECT_EQ(again.exit_code, 0) << again.err;
    EXPECT_NE(service("dstack-vmm"), vmm);
    EXPECT_EQ(host.not_converged(), "");
  }
  expect_stopped(service("dstack-vmm"));
  ASSERT_EQ(::kill(supervisor(), SIGKILL), 0);
  EXPECT_EQ(host.take_away(), "");
}

namespace {

std::string open_files_of(pid_t pid) {
  std::istringstream lines(base::read_file(base::format("/proc/{}/limits", pid)).value_or(""));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string max, open, files, soft;
    words >> max >> open >> files >> soft;
    if (open == "open") {
      return soft;
    }
  }
  return {};
}

}  // namespace

TEST_F(InstallSupervisor, TheShellsLimitOfOpenFilesIsNotTheServices) {
  EXPECT_EQ(host.take_away(), "");
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low = {64, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  const auto installed = host.run(host.install());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_EQ(installed.exit_code, 0) << installed.err;
  // As many as it may have, where it may not have more than its starter.
  const auto most = open_files_of(supervisor());
  EXPECT_THAT(most, testing::AnyOf("65536", std::to_string(before.rlim_max)));
  EXPECT_EQ(open_files_of(service("dstack-vmm")), most);
  EXPECT_EQ(open_files_of(service("dstack-auth")), "4096");
  EXPECT_EQ(host.take_away(), "");
}
