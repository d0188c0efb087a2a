#include "host/host_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/format.h"

using namespace dstack;
using namespace std::chrono_literals;
using host::HostLock;
using testing::HasSubstr;

namespace {

HostLock::Options options(std::chrono::milliseconds limit = 10s) {
  HostLock::Options out;
  const auto* test = testing::UnitTest::GetInstance()->current_test_info()->name();
  out.name = base::format("dstack-test-{}-{}", ::getpid(), test);
  out.limit = limit;
  return out;
}

// A process that takes the lock, as `uid`, and keeps it until it is killed.
pid_t hold(const HostLock::Options& what, uid_t uid = 0) {
  int ready[2] = {};
  if (::pipe(ready) != 0) {
    return -1;
  }
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (uid != 0 && ::setuid(uid) != 0) {
      ::_exit(1);
    }
    const auto lock = HostLock::acquire(what);
    (void)!::write(ready[1], lock && lock->held() ? "y" : "n", 1);
    ::pause();
    ::_exit(0);
  }
  char answer = 0;
  (void)!::read(ready[0], &answer, 1);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_EQ(answer, 'y');
  return pid;
}

void end(pid_t pid) {
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

}  // namespace

TEST(HostLock, OneAtATimeAndFreeAfterwards) {
  auto what = options(50ms);
  {
    const auto first = HostLock::acquire(what);
    ASSERT_TRUE(first) << first.error().what();
    EXPECT_TRUE(first->held());
    int asked = 0;
    what.waiting = [&](std::string_view text) {
      ++asked;
      EXPECT_THAT(std::string(text), HasSubstr(base::format("process {}", ::getpid())));
    };
    const auto second = HostLock::acquire(what);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, base::Code::locked);
    EXPECT_THAT(second.error().what(), HasSubstr(base::format("process {}", ::getpid())));
    EXPECT_GT(asked, 0);
  }
  EXPECT_TRUE(HostLock::acquire(what));
}

TEST(HostLock, WaitsForTheHolderAndNotForItsCrash) {
  const auto what = options();
  const pid_t holder = hold(what);
  std::jthread killer([&] {
    std::this_thread::sleep_for(100ms);
    end(holder);
  });
  const auto begin = std::chrono::steady_clock::now();
  const auto lock = HostLock::acquire(what);
  const auto took = std::chrono::steady_clock::now() - begin;
  ASSERT_TRUE(lock) << lock.error().what();
  EXPECT_TRUE(lock->held());
  EXPECT_GE(took, 90ms);
  EXPECT_LT(took, 5s);
}

TEST(HostLock, ManyWaitAndEachGetsIt) {
  const auto what = options(30s);
  std::atomic<int> inside = 0;
  std::atomic<int> done = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        const auto lock = HostLock::acquire(what);
        ASSERT_TRUE(lock) << lock.error().what();
        EXPECT_EQ(++inside, 1);
        std::this_thread::sleep_for(5ms);
        --inside;
        ++done;
      });
    }
  }
  EXPECT_EQ(done, 8);
}

// Any user may take any such name; that must not keep root from installing.
TEST(HostLock, AStrangerIsNotWaitedFor) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root, to be somebody else too";
  }
  const auto what = options();
  const pid_t holder = hold(what, 65534);
  const auto lock = HostLock::acquire(what);
  ASSERT_TRUE(lock) << lock.error().what();
  EXPECT_FALSE(lock->held());
  EXPECT_EQ(lock->stranger(), base::format("process {} of user 65534", holder));
  end(holder);
}

TEST(HostLock, ANameThatIsTooLong) {
  auto what = options();
  what.name = std::string(108, 'x');
  EXPECT_FALSE(HostLock::acquire(what));
}
