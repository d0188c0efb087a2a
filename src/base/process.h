// Processes by argv and file descriptors, never through a shell.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace dstack::base {

// The PATH that external tools are looked up in and run with; the caller's environment never decides.
inline constexpr const char* k_tool_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// Full path of a tool in k_tool_path, or nullopt.
std::optional<std::string> find_tool(const std::string& name);

// Whom a process runs as. It keeps no capability and cannot gain any (no_new_privs). Only root may give one.
struct Identity {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary ones
};

struct Command {
  std::vector<std::string> argv;               // argv[0] is looked up in k_tool_path unless it has a slash
  std::vector<std::string> environment;        // added to PATH=k_tool_path, LANG=C.UTF-8, HOME=/root
  std::string directory;                       // working directory, empty = inherit
  std::string input;                           // written to standard input (which is else /dev/null)
  std::chrono::milliseconds timeout{60'000};   // SIGKILL to the process group afterwards
  std::size_t output_limit = 8 * 1024 * 1024;  // per stream; more is cut
  std::optional<Identity> identity;            // absent = the caller's
  // Called with each line of stdout and stderr as it arrives, when set.
  std::function<void(std::string_view)> on_line;
};

struct Output {
  int exit_code = 0;  // 128+n when ended by signal n
  std::string out;
  std::string err;
};

// Runs to the end. An exit code other than 0 is not an error here.
Result<Output> run(const Command& command);
// Like run(), but a non-zero exit is Code::process_failed with the last lines of stderr as the cause.
Result<Output> run_checked(const Command& command);

struct Spawn {
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // complete, nothing is added
  std::string directory;
  int stdin_fd = -1;                          // -1 = /dev/null
  int stdout_fd = -1;                         // -1 = inherit
  int stderr_fd = -1;                         // -1 = inherit
  std::vector<std::pair<int, int>> keep_fds;  // (ours, number in the child)
  bool new_session = false;                   // setsid
  std::string cgroup;                         // cgroup v2 directory to enter, empty = none
  int parent_death_signal = 0;                // not together with an identity
  std::uint64_t open_files = 0;               // RLIMIT_NOFILE, 0 = the caller's
  std::optional<Identity> identity;           // absent = the caller's
};
// fork+exec; an exec failure is an error here, not an exit code 127. The caller reaps the pid.
Result<pid_t> spawn(const Spawn& what);

// Sets the limit of open files, or as near to it as this process may. Safe between fork and exec.
void raise_open_files(std::uint64_t limit);

// Start time in clock ticks since boot (/proc/<pid>/stat field 22): with the pid it names one process for
// good.
std::optional<unsigned long long> process_start_time(pid_t pid);

}  // namespace dstack::base
