// Real processes: `sh`, with the arguments or the environment that a supervisor and its services have.
#include "host/supervised_processes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <thread>

#include "base/fs.h"
#include "base/process.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

// Ended and reaped, whatever happens.
class Child {
 public:
  explicit Child(const base::Spawn& what) : m_pid(base::spawn(what).value()) {
    m_reaper = std::jthread([pid = m_pid] { ::waitpid(pid, nullptr, 0); });
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { ::kill(m_pid, SIGKILL); }
  pid_t pid() const { return m_pid; }

 private:
  pid_t m_pid;
  std::jthread m_reaper;
};

class SupervisedProcessesTest : public testing::Test {
 protected:
  void SetUp() override {
    layout = *Layout::make((dir / "p").string());
    ASSERT_TRUE(base::make_dirs(layout.run));
    ASSERT_TRUE(base::make_dirs(layout.logs()));
    ASSERT_TRUE(base::write_file_atomic(dir / "supervise", "while :; do sleep 0.05; done\n", {}));
    ASSERT_TRUE(base::write_file_atomic(dir / "deaf", "trap '' TERM\nwhile :; do sleep 0.05; done\n", {}));
  }
  // `sh supervise --run-dir DIR`, in a directory that has a script of that name.
  base::Spawn supervisor(const std::string& run) const {
    return {
        .argv = {"sh", "supervise", "--run-dir", run}, .environment = {}, .directory = dir.path().string()};
  }
  base::Spawn service(const fs::path& log, const std::string& script = "supervise") const {
    return {.argv = {"sh", script},
            .environment = {std::string("PATH=") + base::k_tool_path, service_mark(log)},
            .directory = dir.path().string()};
  }
  std::vector<pid_t> services() const {
    std::vector<pid_t> out;
    for (const auto& one : find_supervised(layout).services) {
      out.push_back(one.pid);
    }
    return out;
  }

  test::TempDir dir;
  Layout layout;
};

TEST_F(SupervisedProcessesTest, OnlyThoseOfTheInstallation) {
  EXPECT_TRUE(find_supervised(layout).empty());
  const Child ours(supervisor(layout.run.string()));
  const Child other(supervisor(layout.run.string() + "-other"));
  EXPECT_THAT(find_supervised(layout).supervisors, ElementsAre(ours.pid()));
  const Child deaf(service(layout.logs() / "dstack-vmm.log", "deaf"));
  const Child neighbour(service(dir / "q/var/lib/dstack/log/dstack-vmm.log"));
  const auto found = find_supervised(layout);
  EXPECT_TRUE(found.has_service("dstack-vmm"));
  EXPECT_FALSE(found.has_service("dstack-auth"));
  EXPECT_THAT(services(), testing::Contains(deaf.pid()));
  EXPECT_THAT(services(), testing::Not(testing::Contains(neighbour.pid())));
  EXPECT_THAT(found.text(),
              testing::HasSubstr("dstackup supervise (pid " + std::to_string(ours.pid()) + ")"));
}

TEST_F(SupervisedProcessesTest, StoppedOnesEndAndDeafOnesAreKilled) {
  const Child stopped(supervisor(layout.run.string()));
  const Child deaf(service(layout.logs() / "dstack-vmm.log", "deaf"));
  const Child neighbour(service(dir / "q/var/lib/dstack/log/dstack-vmm.log"));
  std::this_thread::sleep_for(50ms);  // until it has set its trap
  ASSERT_EQ(::kill(stopped.pid(), SIGSTOP), 0);
  std::vector<std::string> said;
  const auto ended =
      end_supervised(layout, [&](std::string_view text) { said.emplace_back(text); }, {5s, 300ms, 5s});
  ASSERT_TRUE(ended) << ended.error().what();
  EXPECT_TRUE(find_supervised(layout).empty());
  EXPECT_THAT(said, testing::Contains("the services to end"));
  EXPECT_EQ(::kill(neighbour.pid(), 0), 0);
}

TEST_F(SupervisedProcessesTest, NothingToEndIsDoneAtOnce) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(end_supervised(layout));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
}

}  // namespace
}  // namespace dstack::host
