#include "vmm/passed_files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::vmm {
namespace {

using Access = PassedFile::Access;
using testing::HasSubstr;

class PassedFiles : public testing::Test {
 protected:
  PassedFiles() {
    EXPECT_TRUE(base::write_file_atomic(m_lab / "disk", "disk", {.mode = 0600}));
    EXPECT_TRUE(base::write_file_atomic(m_lab / "kernel", "kernel", {.mode = 0644}));
    m_files = {{m_lab / "disk", Access::write, false, 100},
               {m_lab / "disk", Access::read, false, 101},
               {m_lab / "kernel", Access::read, true, 102},
               {m_lab / "log", Access::append, false, 103}};
  }
  // Runs `body` in a process whose standard input is the socket; its exit code.
  template <class Body>
  static int in_child(const base::Fd& socket, Body body) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(socket.get(), STDIN_FILENO);
      ::_exit(body());
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  test::TempDir m_lab;
  std::vector<PassedFile> m_files;
};

TEST_F(PassedFiles, ArriveAtTheirNumbersAndNothingElseDoes) {
  auto open = open_files(m_files, /*other_user=*/true);
  ASSERT_TRUE(open) << open.error().what();
  auto socket = hand_over(*open);
  ASSERT_TRUE(socket) << socket.error().what();
  open->clear();
  const int code = in_child(*socket, [] {
    if (!take_over()) {
      return 1;
    }
    char text[16] = {};
    if (::pread(100, text, sizeof text, 0) != 4 || ::pwrite(100, "DISK", 4, 0) != 4) {
      return 2;
    }
    if (::pread(101, text, sizeof text, 0) != 4 || ::pwrite(101, "x", 1, 0) >= 0) {
      return 3;
    }
    if (::pread(102, text, sizeof text, 0) != 6 || ::write(103, "line\n", 5) != 5) {
      return 4;
    }
    if (::read(STDIN_FILENO, text, sizeof text) != 0) {
      return 5;  // standard input must have become empty
    }
    // These stay for the program, what was received on the way does not.
    return ::fcntl(100, F_GETFD) == 0 && ::fcntl(104, F_GETFD) == FD_CLOEXEC ? 0 : 6;
  });
  EXPECT_EQ(code, 0);
  EXPECT_EQ(base::read_file(m_lab / "disk"), "DISK");
  EXPECT_EQ(base::read_file(m_lab / "log"), "line\n");
}

TEST_F(PassedFiles, TheProgramTakesThisOnesPlace) {
  const auto open = open_files(m_files, true);
  ASSERT_TRUE(open);
  const auto socket = hand_over(*open);
  ASSERT_TRUE(socket);
  // It exits with 0 only if it finds the file there.
  std::string program = "/bin/grep";
  std::string wanted = "kernel";
  std::string quiet = "-q";
  std::string file = "/proc/self/fd/102";
  char* argv[] = {program.data(), quiet.data(), wanted.data(), file.data(), nullptr};
  EXPECT_EQ(in_child(*socket, [&] { return run_handed_over(4, argv); }), 0);

  const auto again = hand_over(*open);
  ASSERT_TRUE(again);
  std::string missing = "/nonexistent/qemu";
  char* bad[] = {missing.data(), nullptr};
  EXPECT_EQ(in_child(*again, [&] { return run_handed_over(1, bad); }), 127);
  EXPECT_EQ(run_handed_over(0, nullptr), 2);
}

TEST_F(PassedFiles, StandardInputThatHoldsNoneIsAnError) {
  const base::Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(in_child(null, [] { return take_over() ? 0 : 1; }), 1);
}

TEST_F(PassedFiles, WhatCannotBeOpenedIsNamed) {
  m_files[2].path = m_lab / "missing";
  const auto open = open_files(m_files, false);
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code, base::Code::vm_start);
  EXPECT_THAT(open.error().what(), HasSubstr((m_lab / "missing").string()));
  EXPECT_FALSE(open_files(std::vector<PassedFile>(91, m_files[0]), false)) << "more than fit";
}

TEST_F(PassedFiles, AKernelThatOnlyItsOwnerReadsIsOfNoUseToAnotherUser) {
  ASSERT_EQ(::chmod((m_lab / "kernel").c_str(), 0640), 0);
  EXPECT_TRUE(open_files(m_files, /*other_user=*/false));
  const auto open = open_files(m_files, /*other_user=*/true);
  ASSERT_FALSE(open);
  EXPECT_THAT(open.error().fix, HasSubstr("chmod o+r"));
}

TEST_F(PassedFiles, ALogIsNotWrittenThroughALink) {
  ASSERT_EQ(::symlink((m_lab / "disk").c_str(), (m_lab / "log").c_str()), 0);
  EXPECT_FALSE(open_files(m_files, false));
}

}  // namespace
}  // namespace dstack::vmm
