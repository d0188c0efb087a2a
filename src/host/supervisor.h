// The built-in supervisor's daemon: runs services where systemd is not PID 1. Talked to over a unix socket by
// make_supervisor_manager().
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "base/result.h"

namespace dstack::host {

struct SupervisorOptions {
  std::filesystem::path run;                // holds supervisor.sock and supervisor.lock
  std::filesystem::path logs;               // <service>.log
  std::string cgroup_root;                  // a cgroup v2 directory of ours, "" = none
  std::size_t log_limit = 4 * 1024 * 1024;  // a longer log becomes <service>.log.1
  std::chrono::milliseconds rotation_period{5'000};
};

// Serves until shut_down or SIGTERM; stops all services before it returns. Code::locked when one already runs
// there.
base::Result<> run_supervisor(const SupervisorOptions& options);

// run_supervisor() in a process detached from the caller's session and terminal. Returns in the caller once
// it listens, or with the reason why it does not.
base::Result<> start_supervisor_daemon(const SupervisorOptions& options);

// Another program may take the place of a running supervisor: the old one replaces itself (exec), so process,
// services and clients stay. This is the new one's beginning; `handed_over` is the descriptor it was left.
base::Result<> go_on_as_supervisor(int handed_over);
// Does this program understand what a supervisor of that format hands over?
bool can_go_on_from(int format);

// "<cgroup2 mount>/dstack[-instance]", or "" where there is no writable cgroup v2.
base::Result<std::string> supervisor_cgroup_root(const std::string& instance);

}  // namespace dstack::host
