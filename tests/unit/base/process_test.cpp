#include "base/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/format.h"
#include "base/fs.h"
#include "unit/temp_dir.h"

using namespace dstack::base;
using dstack::test::TempDir;

TEST(Run, GivesOutputErrorAndExitCode) {
  const auto output = run({.argv = {"ls", "/definitely-not-here"}});
  ASSERT_TRUE(output) << output.error().what();
  EXPECT_EQ(output->exit_code, 2);
  EXPECT_EQ(output->out, "");
  EXPECT_NE(output->err.find("definitely-not-here"), std::string::npos);
}

TEST(Run, PassesInputAndCallsBackPerLine) {
  std::vector<std::string> lines;
  Command command{.argv = {"cat"}, .input = "one\ntwo\nthree"};
  command.on_line = [&](std::string_view line) { lines.emplace_back(line); };
  const auto output = run(command);
  ASSERT_TRUE(output);
  EXPECT_EQ(output->out, "one\ntwo\nthree");
  EXPECT_EQ(lines, (std::vector<std::string>{"one", "two", "three"}));
}

TEST(Run, LargeInputDoesNotDeadlockAndOutputIsBounded) {
  const auto output = run({.argv = {"cat"}, .input = std::string(3'000'000, 'x'), .output_limit = 1000});
  ASSERT_TRUE(output);
  EXPECT_EQ(output->out.size(), 1000U);
}

TEST(Run, InputForAProgramThatIgnoresItDoesNotKillUs) {
  const auto output = run({.argv = {"true"}, .input = std::string(1'000'000, 'x')});
  ASSERT_TRUE(output);
  EXPECT_EQ(output->exit_code, 0);
}

TEST(Run, TimesOutWithTheWholeGroup) {
  const auto output = run({.argv = {"sleep", "30"}, .timeout = std::chrono::milliseconds(100)});
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code, Code::timeout);
}

TEST(Run, EnvironmentIsClean) {
  ::setenv("LD_PRELOAD_LIKE", "evil", 1);
  const auto output = run({.argv = {"env"}, .environment = {"GIVEN=1"}});
  ASSERT_TRUE(output);
  EXPECT_EQ(output->out.find("LD_PRELOAD_LIKE"), std::string::npos);
  EXPECT_NE(output->out.find("GIVEN=1"), std::string::npos);
}

TEST(RunChecked, NamesTheProgramAndItsReason) {
  const auto output = run_checked({.argv = {"ls", "/definitely-not-here"}});
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code, Code::process_failed);
  EXPECT_NE(output.error().cause.find("definitely-not-here"), std::string::npos);
}

TEST(Spawn, AMissingProgramIsAnErrorNotAnExitCode) {
  const auto pid = spawn({.argv = {"no-such-program-at-all"}});
  ASSERT_FALSE(pid);
  EXPECT_NE(pid.error().fix.find("install"), std::string::npos);
  const TempDir dir;
  ASSERT_TRUE(write_file_atomic(dir / "broken", "#!/no/such/interpreter\n", {.mode = 0755}));
  EXPECT_FALSE(spawn({.argv = {(dir / "broken").string()}}));
}

TEST(Spawn, FilesArriveAtTheirNumbersInAnyOrder) {
  const TempDir dir;
  ASSERT_TRUE(write_file_atomic(dir / "a", "first"));
  ASSERT_TRUE(write_file_atomic(dir / "b", "second"));
  Fd a(::open((dir / "a").c_str(), O_RDONLY | O_CLOEXEC));
  Fd b(::open((dir / "b").c_str(), O_RDONLY | O_CLOEXEC));
  const Fd out(::open((dir / "out").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  Spawn what;
  // Each has the number that the other is to have; and the numbers around are in use for spawn's own needs.
  what.keep_fds = {{a.get(), b.get()}, {b.get(), a.get()}};
  for (int fd = out.get() + 1; fd < out.get() + 6; ++fd) {
    what.keep_fds.emplace_back(a.get(), fd);
  }
  what.stdout_fd = out.get();
  what.argv = {"cat", format("/proc/self/fd/{}", a.get()), format("/proc/self/fd/{}", b.get())};
  const auto pid = spawn(what);
  ASSERT_TRUE(pid) << pid.error().what();
  int status = -1;
  ::waitpid(*pid, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_file(dir / "out"), "secondfirst");
  what.argv = {dir.path().string()};
  EXPECT_FALSE(spawn(what)) << "a failed exec is noticed all the same";
}

TEST(Run, AnotherIdentityKeepsNoPrivilege) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can become somebody else";
  }
  const auto output =
      run({.argv = {"cat", "/proc/self/status"}, .identity = Identity{61200, 61201, {61202, 61203}}});
  ASSERT_TRUE(output);
  for (const auto* line :
       {"Uid:\t61200\t61200\t61200\t61200\n", "Gid:\t61201\t61201\t61201\t61201\n", "Groups:\t61202 61203 \n",
        "CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
        "CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n"}) {
    EXPECT_NE(output->out.find(line), std::string::npos) << line << " is not in " << output->out;
  }
}

TEST(ProcessStartTime, NamesALivingProcessOnly) {
  const auto pid = spawn({.argv = {"sleep", "30"}});
  ASSERT_TRUE(pid);
  EXPECT_TRUE(process_start_time(*pid));
  ::kill(*pid, SIGKILL);
  siginfo_t info = {};
  ::waitid(P_PID, static_cast<id_t>(*pid), &info, WEXITED | WNOWAIT);
  EXPECT_FALSE(process_start_time(*pid)) << "a zombie does not count as running";
  ::waitpid(*pid, nullptr, 0);
  EXPECT_FALSE(process_start_time(*pid));
}
