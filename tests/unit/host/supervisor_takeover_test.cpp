// One supervisor in the place of another, as an upgrade has it. The next one is this test program, too.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <future>
#include <sstream>

#include "host/supervisor_handover.h"
#include "unit/host/supervisor_fixture.h"

namespace dstack::host {
namespace {

// Stands for `dstackup supervise` of another version.
void run_as_next_supervisor(const std::vector<std::string>& words) {
  if (words.size() < 4 || words[1] != "supervise") {
    return;
  }
  if (words[words.size() - 2] == "--can-go-on") {
    ::_exit(can_go_on_from(std::stoi(words.back())) && words[0].find("incapable") == std::string::npos ? 0
                                                                                                       : 1);
  }
  if (words[words.size() - 2] == "--go-on") {
    if (words[0].find("broken") != std::string::npos) {
      ::_exit(1);
    }
    ::_exit(go_on_as_supervisor(std::stoi(words.back())) ? 0 : 1);
  }
}

std::vector<std::string> own_words() {
  std::vector<std::string> words;
  std::istringstream line(base::read_file("/proc/self/cmdline").value_or(""));
  for (std::string word; std::getline(line, word, '\0');) {
    words.push_back(word);
  }
  return words;
}

// Runs before gtest's main().
const struct NextSupervisor {
  NextSupervisor() { run_as_next_supervisor(own_words()); }
} k_next_supervisor;

// The installation's program is another one now; start() brings it in.
class SupervisorTakeover : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    manager_options.may_start = true;
    manager = make_supervisor_manager(manager_options);
    ASSERT_TRUE(manager->start(service("ready")));
    before = status("ready");
    std::ifstream stat("/proc/" + std::to_string(before.pid) + "/stat");
    std::string number, name, state;
    stat >> number >> name >> state >> supervisor;
    ASSERT_GT(supervisor, 1);
  }
  // Puts the set of programs `id` in place.
  fs::path place(const std::string& id) const {
    const auto directory = layout.libexec / "versions" / id;
    fs::create_directories(directory);
    fs::copy_file("/proc/self/exe", directory / "dstackup");
    fs::remove(layout.libexec / "current");
    fs::create_symlink("versions/" + id, layout.libexec / "current");
    return directory / "dstackup";
  }
  fs::path runs() const { return fs::read_symlink("/proc/" + std::to_string(supervisor) + "/exe"); }

  ServiceStatus before;
  pid_t supervisor = 0;
};

TEST_F(SupervisorTakeover, TheServicesNoticeNothing) {
  ASSERT_TRUE(manager->start(service("talkative")));
  const auto log = layout.logs() / "talkative.log";
  const auto next = place("next");
  // One that is on its way up when the programs change.
  auto slow = service("silent");
  slow.start_timeout = 400ms;
  auto starting = std::async(std::launch::async, [&] {
    ServiceManagerOptions other = manager_options;
    other.may_start = false;
    return make_supervisor_manager(other)->start(slow);
  });
  ASSERT_TRUE(eventually([&] { return status("silent").state == ServiceState::starting; }));
  ASSERT_TRUE(manager->start(service("ready")));
  EXPECT_EQ(runs(), next);
  const auto after = status("ready");
  EXPECT_EQ(after.pid, before.pid);
  EXPECT_EQ(after.text, "listening");
  EXPECT_EQ(after.since_unix, before.since_unix);
  EXPECT_EQ(after.state, ServiceState::active);
  EXPECT_EQ(trace_lines("ready").size(), 1U);
  const auto size = fs::file_size(log);
  EXPECT_TRUE(eventually([&] { return fs::file_size(log) > size; }));
  // Who asked the old one is answered by the new one.
  const auto started = starting.get();
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().what().find("not ready within 400 ms"), std::string::npos)
      << started.error().what();
  // It is in charge of them: restarts, says why, stops, and is not alone.
  ASSERT_EQ(::kill(after.pid, SIGKILL), 0);
  EXPECT_TRUE(eventually([&] {
    const auto now = status("ready");
    return now.state == ServiceState::active && now.pid != before.pid;
  }));
  EXPECT_FALSE(start_supervisor_daemon(options)) << "the lock was lost";
  ASSERT_TRUE(manager->stop("ready"));
  EXPECT_EQ(status("ready").state, ServiceState::stopped);
}

TEST_F(SupervisorTakeover, ThereAndBackManyTimes) {
  const auto open_files = [](pid_t pid) {
    return std::distance(fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd"), {});
  };
  place("a");
  ASSERT_TRUE(manager->start(service("ready")));
  const auto files = open_files(supervisor);
  for (int turn = 0; turn < 6; ++turn) {
    const auto next = place("turn-" + std::to_string(turn));
    ASSERT_TRUE(manager->start(service("ready")));
    EXPECT_EQ(runs(), next);
    EXPECT_EQ(status("ready").pid, before.pid);
  }
  EXPECT_LE(open_files(supervisor), files + 1) << "descriptors are left behind";
  // What it starts now gets none of them.
  ASSERT_TRUE(manager->restart(service("ready")));
  // Its own socket, by which it said that it is ready, it closes a moment later.
  const auto pid = status("ready").pid;
  EXPECT_TRUE(eventually([&] { return open_files(pid) == 3; })) << open_files(pid);
}

TEST_F(SupervisorTakeover, AProgramThatCannotIsNotTried) {
  for (const auto* id : {"incapable", "not-a-program"}) {
    const auto program = place(id);
    if (std::string_view(id) == "not-a-program") {
      fs::remove(program);
      std::ofstream(program) << "x";
    }
    EXPECT_TRUE(manager->start(service("ready")));
    EXPECT_EQ(runs(), fs::read_symlink("/proc/self/exe"));
    EXPECT_EQ(status("ready").pid, before.pid);
  }
}

TEST_F(SupervisorTakeover, OneThatDiesOnTheWayLeavesWhatAStartMends) {
  place("broken");
  EXPECT_FALSE(manager->start(service("ready")));
  EXPECT_TRUE(eventually([&] { return !alive(before.pid); }));
  ASSERT_TRUE(start_supervisor_daemon(options));
  manager_options.may_start = false;
  manager = make_supervisor_manager(manager_options);
  EXPECT_TRUE(manager->start(service("ready")));
}

}  // namespace
}  // namespace dstack::host
