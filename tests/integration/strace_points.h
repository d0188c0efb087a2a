// System calls of a run, taken from strace, as places at which another run is killed or made to fail.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/process.h"

namespace dstack::test {

// strace counts occurrences for each name apart.
struct SystemCall {
  std::string name;
  int ordinal = 0;
  std::string line;  // with the paths of descriptors
};

// With DSTACK_FULL_SWEEP set (./dev bench crash) every place is taken, else some.
bool full_sweep();

// Empty when strace can trace here, else why not.
std::string strace_problem();

// Runs `argv` under strace (that process only, not its children) and returns its calls.
std::vector<SystemCall> trace_calls(const std::vector<std::string>& argv, base::Output& output);

// Runs `argv`, injecting `what` ("signal=KILL", "error=EIO") into one call.
struct Injected {
  base::Output output;
  bool hit = false;
};
Injected run_with_fault(const std::vector<std::string>& argv, const SystemCall& call,
                        const std::string& what);

// Does the call change a file, a process or something else outside of its own process?
bool changes_something(const SystemCall& call);

// `argv` under strace with all its processes: what it does to files, one line for each call that changes
// something. Not counted: pipes, sockets, devices, and opening (not writing) the files in `may_open`.
std::vector<std::string> changes_to_files(const std::vector<std::string>& argv,
                                          const std::vector<std::string>& may_open, base::Output& output);

// For SetUp() and tests: skips where there is no strace.
#define DSTACK_NEEDS_STRACE()                                                    \
  if (const auto problem = ::dstack::test::strace_problem(); !problem.empty()) { \
    GTEST_SKIP() << problem;                                                     \
  }

}  // namespace dstack::test
