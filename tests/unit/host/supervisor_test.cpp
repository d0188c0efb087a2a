// The supervisor with real processes: this test program is its own set of services (see run_role).
#include "host/supervisor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "base/fs.h"
#include "base/notify.h"
#include "base/process.h"
#include "host/cgroup.h"
#include "host/service_manager.h"
#include "unit/host/supervisor_fixture.h"

namespace dstack::host {
namespace {

using namespace std::chrono_literals;

void append_line(const char* path, const std::string& text) {
  std::ofstream(path, std::ios::app) << text << std::endl;
}

[[noreturn]] void sleep_for_ever() {
  while (true) {
    ::pause();
  }
}

// A child in a session of its own that ignores SIGTERM: what a plain process-group kill misses.
void leave_escapee(const char* file) {
  if (::fork() == 0) {
    ::setsid();
    ::signal(SIGTERM, SIG_IGN);
    append_line(file, std::to_string(::getpid()));
    sleep_for_ever();
  }
}

[[noreturn]] void run_role(const std::string& role, const char* file) {
  append_line(file, "run");
  if (role == "ready") {
    base::notify_ready("listening");
  } else if (role == "fail") {
    base::notify_failed(
        {base::Code::address_in_use, "cannot listen on port 8001", "in use", "stop the other one"}, 98);
    ::_exit(3);
  } else if (role == "die") {
    [[maybe_unused]] const auto n = ::write(2, "first line\nlast words\n", 22);
    ::_exit(4);
  } else if (role == "crash") {
    base::notify_ready("up");
    std::this_thread::sleep_for(20ms);
    ::_exit(7);
  } else if (role == "gives-up") {
    append_line(file, std::to_string(std::chrono::steady_clock::now().time_since_epoch() / 1ms));
    base::notify_ready("up");
    ::_exit(1);
  } else if (role == "talkative") {
    base::notify_ready("up");
    for (int line = 0;; ++line) {
      const auto text = "line " + std::to_string(line) + std::string(200, '.') + "\n";
      [[maybe_unused]] const auto n = ::write(1, text.data(), text.size());
      std::this_thread::sleep_for(1ms);
    }
  } else if (role == "deaf") {
    ::signal(SIGTERM, SIG_IGN);
    base::notify_ready("deaf");
  } else if (role == "escape") {
    leave_escapee(file);
    base::notify_ready("with a child");
  } else if (role == "proxy") {
    // Readiness claimed by a child does not count.
    if (::fork() == 0) {
      base::notify_ready("not me");
      ::_exit(0);
    }
  } else if (role == "environment") {
    for (char** at = environ; *at != nullptr; ++at) {
      append_line(file, *at);
    }
    base::notify_ready("");
  }
  sleep_for_ever();
}

// Runs before gtest's main().
const struct RoleRunner {
  RoleRunner() {
    if (const char* role = std::getenv("DSTACK_TEST_ROLE")) {
      run_role(role, std::getenv("DSTACK_TEST_FILE"));
    }
  }
} k_role_runner;

class SupervisorWithoutCgroup : public SupervisorTest {
  bool use_cgroup() const override { return false; }
};

TEST_F(SupervisorTest, StartWaitsForReadiness) {
  ASSERT_TRUE(manager->start(service("ready")));
  const auto now = status("ready");
  EXPECT_EQ(now.state, ServiceState::active);
  EXPECT_EQ(now.text, "listening");
  EXPECT_GT(now.since_unix, 1'600'000'000);
  const auto pid = now.pid;
  ASSERT_TRUE(alive(pid));
  // The same definition again changes nothing.
  ASSERT_TRUE(manager->start(service("ready")));
  EXPECT_EQ(status("ready").pid, pid);
  ASSERT_TRUE(manager->restart(service("ready")));
  EXPECT_NE(status("ready").pid, pid);
  EXPECT_FALSE(alive(pid));
  ASSERT_TRUE(manager->stop("ready"));
  EXPECT_EQ(status("ready").state, ServiceState::stopped);
  ASSERT_TRUE(manager->stop("ready"));
  ASSERT_TRUE(manager->remove("ready"));
  EXPECT_EQ(status("ready").state, ServiceState::unknown);
  EXPECT_FALSE(fs::exists(layout.logs() / "ready.log"));
}

TEST_F(SupervisorTest, AnotherDefinitionRestarts) {
  ASSERT_TRUE(manager->start(service("ready")));
  const auto pid = status("ready").pid;
  auto changed = service("ready");
  changed.environment.emplace_back("X=1");
  ASSERT_TRUE(manager->start(changed));
  EXPECT_NE(status("ready").pid, pid);
  EXPECT_FALSE(alive(pid));
}

TEST_F(SupervisorTest, FailureBeforeReadinessTellsTheServicesOwnReason) {
  const auto started = manager->start(service("fail"));
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, base::Code::service_failed);
  EXPECT_NE(started.error().what().find("cannot listen on port 8001: in use"), std::string::npos)
      << started.error().what();
  EXPECT_NE(started.error().what().find("exit code 3"), std::string::npos);
  const auto now = status("fail");
  EXPECT_EQ(now.state, ServiceState::failed);
  EXPECT_EQ(now.error_number, 98);
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(trace_lines("fail").size(), 1U) << "a start that was asked for and failed is not repeated";
}

TEST_F(SupervisorTest, FailureWithoutAReasonShowsTheLog) {
  const auto started = manager->start(service("die"));
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().what().find("last words"), std::string::npos) << started.error().what();
  EXPECT_EQ(*manager->logs("die", 1), std::vector<std::string>{"last words"});
  EXPECT_EQ(*manager->logs("die", 10), (std::vector<std::string>{"first line", "last words"}));
}

TEST_F(SupervisorTest, MissingProgram) {
  auto spec = service("x");
  spec.argv = {"/nonexistent/program"};
  const auto started = manager->start(spec);
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().what().find("/nonexistent/program"), std::string::npos);
}

TEST_F(SupervisorTest, NeverReadyIsATimeout) {
  auto spec = service("silent");
  spec.start_timeout = 150ms;
  const auto started = manager->start(spec);
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().what().find("not ready within 150 ms"), std::string::npos)
      << started.error().what();
  EXPECT_EQ(status("silent").pid, 0);
}

TEST_F(SupervisorTest, OnlyTheMainProcessCanSayReady) {
  auto spec = service("proxy");
  spec.start_timeout = 200ms;
  EXPECT_FALSE(manager->start(spec));
}

TEST_F(SupervisorTest, CrashesAreRestartedUpToALimit) {
  auto spec = service("crash");
  spec.start_limit = 4;
  ASSERT_TRUE(manager->start(spec));
  ASSERT_TRUE(eventually([&] { return status("crash").state == ServiceState::failed; }));
  EXPECT_EQ(trace_lines("crash").size(), 4U);
  const auto now = status("crash");
  EXPECT_EQ(now.restarts, 3U);
  EXPECT_NE(now.result.find("exit code 7"), std::string::npos) << now.result;
  EXPECT_NE(now.result.find("4 starts"), std::string::npos) << now.result;
  // Asked for again, it gets a new set of attempts.
  EXPECT_TRUE(manager->start(spec));
  ASSERT_TRUE(eventually([&] { return trace_lines("crash").size() >= 6U; }));
}

TEST_F(SupervisorTest, EachRestartWaitsTwiceAsLong) {
  auto spec = service("gives-up");
  spec.start_limit = 5;
  spec.restart_delay = 40ms;
  static_cast<void>(manager->start(spec));
  ASSERT_TRUE(eventually([&] { return status("gives-up").state == ServiceState::failed; }));
  std::vector<long> starts;
  for (const auto& line : trace_lines("gives-up")) {
    if (line != "run") {
      starts.push_back(std::stol(line));
    }
  }
  ASSERT_EQ(starts.size(), 5U);
  // A busy machine makes it later, never earlier.
  for (std::size_t i = 1; i < starts.size(); ++i) {
    EXPECT_GE(starts[i] - starts[i - 1], 40L << (i - 1)) << "restart " << i;
  }
}

TEST_F(SupervisorTest, ALongLogIsSetAside) {
  ASSERT_TRUE(manager->shut_down());
  options.log_limit = 20'000;
  options.rotation_period = 20ms;
  ASSERT_TRUE(start_supervisor_daemon(options));
  ASSERT_TRUE(manager->start(service("talkative")));
  const auto log = options.logs / "talkative.log";
  const auto old = fs::path(log.string() + ".1");
  ASSERT_TRUE(eventually([&] { return fs::exists(old); }));
  EXPECT_GT(fs::file_size(old), 20'000U);
  // Written to again from its beginning, without a hole, by the same process.
  ASSERT_TRUE(eventually([&] {
    const auto text = base::read_file(log).value_or("");
    return text.starts_with("line ") || text.starts_with(".");
  }));
  const auto size = fs::file_size(log);
  EXPECT_LT(size, 200'000U);
  ASSERT_TRUE(manager->remove("talkative"));
  EXPECT_FALSE(fs::exists(log));
  EXPECT_FALSE(fs::exists(old));
}

TEST_F(SupervisorTest, KilledServiceComesBack) {
  ASSERT_TRUE(manager->start(service("ready")));
  const auto pid = status("ready").pid;
  ASSERT_EQ(::kill(pid, SIGKILL), 0);
  ASSERT_TRUE(eventually([&] {
    const auto now = status("ready");
    return now.state == ServiceState::active && now.pid != pid;
  }));
  EXPECT_EQ(status("ready").restarts, 1U);
}

TEST_F(SupervisorTest, DeafServiceIsKilled) {
  auto spec = service("deaf");
  spec.stop_timeout = 100ms;
  ASSERT_TRUE(manager->start(spec));
  const auto pid = status("deaf").pid;
  ASSERT_TRUE(manager->stop("deaf"));
  EXPECT_FALSE(alive(pid));
  EXPECT_NE(status("deaf").result.find("did not stop"), std::string::npos);
}

void expect_escapee_killed(ServiceManager& manager, const ServiceSpec& spec, const std::string& trace) {
  ASSERT_TRUE(manager.start(spec));
  pid_t escapee = 0;
  ASSERT_TRUE(eventually([&] {
    std::ifstream in(trace);
    std::string run;
    return static_cast<bool>(in >> run >> escapee);
  }));
  ASSERT_TRUE(alive(escapee));
  ASSERT_TRUE(manager.stop(spec.name));
  EXPECT_FALSE(alive(escapee));
}

TEST_F(SupervisorTest, EscapedChildIsKilled) {
  if (options.cgroup_root.empty()) {
    GTEST_SKIP() << "no writable cgroup v2";
  }
  expect_escapee_killed(*manager, service("escape"), trace("escape"));
}
TEST_F(SupervisorWithoutCgroup, EscapedChildIsKilled) {
  expect_escapee_killed(*manager, service("escape"), trace("escape"));
}

TEST_F(SupervisorTest, ServicesHaveLimitsAsFarAsTheHostHasThem) {
  if (options.cgroup_root.empty()) {
    GTEST_SKIP() << "no writable cgroup v2";
  }
  auto spec = service("ready");
  spec.memory_max = std::uint64_t{1} << 30;
  spec.tasks_max = 50;
  ASSERT_TRUE(manager->start(spec));
  const auto log = base::read_file(options.logs / "supervisor.log").value_or("");
  for (const auto& [file, value, controller] :
       {std::array{"memory.max", "1073741824\n", "memory"}, std::array{"pids.max", "50\n", "pids"}}) {
    const auto text = base::read_file(fs::path(options.cgroup_root) / "ready" / file);
    if (text) {
      EXPECT_EQ(*text, value);
    } else {
      EXPECT_NE(log.find(std::string("ready runs without a limit of ") + controller), std::string::npos)
          << log;
    }
  }
  const auto pid = status("ready").pid;
  ++spec.tasks_max;
  ASSERT_TRUE(manager->start(spec));
  EXPECT_NE(status("ready").pid, pid) << "another limit is another definition";
}

TEST_F(SupervisorTest, ChildrenThatMayOutliveDo) {
  auto spec = service("escape");
  spec.children_outlive = true;
  ASSERT_TRUE(manager->start(spec));
  pid_t child = 0;
  ASSERT_TRUE(eventually([&] {
    const auto lines = trace_lines("escape");
    child = lines.size() == 2 ? static_cast<pid_t>(std::stol(lines[1])) : 0;
    return child != 0;
  }));
  ASSERT_TRUE(manager->restart(spec));
  EXPECT_TRUE(alive(child));
  ASSERT_TRUE(manager->stop("escape"));
  EXPECT_TRUE(alive(child));
  for (const auto& line : trace_lines("escape")) {
    if (line != "run") {
      ::kill(static_cast<pid_t>(std::stol(line)), SIGKILL);
    }
  }
}

TEST_F(SupervisorTest, EnvironmentIsOurs) {
  ::setenv("DSTACK_TEST_LEAK", "secret", 1);
  ASSERT_TRUE(manager->start(service("environment")));
  ::unsetenv("DSTACK_TEST_LEAK");
  bool path = false;
  for (const auto& line : trace_lines("environment")) {
    EXPECT_EQ(line.find("DSTACK_TEST_LEAK"), std::string::npos);
    path |= line == std::string("PATH=") + base::k_tool_path;
  }
  EXPECT_TRUE(path);
}

TEST_F(SupervisorTest, SecondSupervisorIsRefused) {
  const auto second = start_supervisor_daemon(options);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, base::Code::locked);
}

TEST_F(SupervisorTest, ShutDownStopsEverything) {
  ASSERT_TRUE(manager->start(service("ready")));
  ASSERT_TRUE(manager->start(service("deaf")));
  const auto a = status("ready").pid;
  const auto b = status("deaf").pid;
  auto impatient = service("deaf");
  impatient.stop_timeout = 50ms;
  impatient.environment.emplace_back("X=1");
  ::kill(b, SIGKILL);
  ASSERT_TRUE(manager->shut_down());
  EXPECT_FALSE(alive(a));
  EXPECT_FALSE(alive(b));
  EXPECT_EQ(status("ready").state, ServiceState::unknown);
  EXPECT_TRUE(manager->stop("ready")) << "without a supervisor nothing runs";
  EXPECT_FALSE(manager->start(service("ready"))) << "may_start is false";
}

TEST_F(SupervisorTest, KilledSupervisorTakesItsServicesAlong) {
  ASSERT_TRUE(manager->start(service("ready")));
  const auto pid = status("ready").pid;
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string number, name, state;
  pid_t supervisor = 0;
  stat >> number >> name >> state >> supervisor;
  ASSERT_GT(supervisor, 1);
  ASSERT_EQ(::kill(supervisor, SIGKILL), 0);
  EXPECT_TRUE(eventually([&] { return !alive(pid); }));
  // A new one takes the place of the dead one.
  ASSERT_TRUE(start_supervisor_daemon(options));
  ASSERT_TRUE(manager->start(service("ready")));
}

TEST_F(SupervisorTest, AStoppedServiceHearsItsStop) {
  ASSERT_TRUE(manager->start(service("ready")));
  const auto pid = status("ready").pid;
  ASSERT_EQ(::kill(pid, SIGSTOP), 0);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(manager->stop("ready"));
  EXPECT_FALSE(alive(pid));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, service("ready").stop_timeout);
}

class SupervisorThatLooksOften : public SupervisorTest {
  void SetUp() override {
    options.rotation_period = 50ms;
    SupervisorTest::SetUp();
  }
};

TEST_F(SupervisorThatLooksOften, MakesItsSocketAndItsLockAgain) {
  ASSERT_TRUE(manager->start(service("ready")));
  const auto before = status("ready");
  for (const bool all : {false, true}) {
    fs::remove_all(all ? layout.run : layout.run / "supervisor.sock");
    ASSERT_TRUE(eventually([&] { return fs::exists(layout.run / "supervisor.sock"); }));
    EXPECT_EQ(status("ready").pid, before.pid);
    EXPECT_FALSE(start_supervisor_daemon(options)) << "it is the only one still";
  }
}

TEST_F(SupervisorTest, SurvivesTheDeathOfItsStarter) {
  ASSERT_TRUE(manager->shut_down());
  const pid_t shell = ::fork();
  if (shell == 0) {
    ::setsid();
    const bool ok = start_supervisor_daemon(options) && manager->start(service("ready"));
    ::_exit(ok ? 0 : 1);
  }
  int wait_status = 0;
  ::waitpid(shell, &wait_status, 0);
  ASSERT_EQ(wait_status, 0);
  ::kill(-shell, SIGHUP);
  ::kill(-shell, SIGKILL);
  EXPECT_EQ(status("ready").state, ServiceState::active);
}

TEST_F(SupervisorTest, GarbageOnTheSocketHarmsNothing) {
  for (const std::string& text : {std::string("nonsense\n"), std::string("{\"verb\":\"explode\"}\n"),
                                  std::string("{\"verb\":\"start\",\"spec\":3}\n"), std::string(300'000, 'x'),
                                  std::string("[]\n"), std::string()}) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const auto path = (layout.run / "supervisor.sock").string();
    ASSERT_LT(path.size(), sizeof address.sun_path);
    path.copy(address.sun_path, path.size());
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    [[maybe_unused]] const auto n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::close(fd);
  }
  EXPECT_TRUE(manager->start(service("ready")));
}

}  // namespace
}  // namespace dstack::host
