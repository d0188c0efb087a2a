// A command as a service of its own, without a unit file: it outlives the program that started it, and its
// cgroup ends with it. Only where systemd is PID 1.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace dstack::host {

struct TransientUnit {
  std::string name;  // as check_unit_name(), without ".service"
  std::string description;
  std::vector<std::string> argv;         // argv[0] absolute
  std::vector<std::string> environment;  // complete but for what systemd adds itself
  std::string directory;
  std::string slice = "dstack.slice";
  std::string stdout_file;  // appended to; empty = the journal
  std::string stderr_file;
  std::vector<std::string> writable_paths;  // all else is read-only
  std::vector<std::string> readable_paths;  // needed although below a home or a temporary directory
  std::vector<std::string> devices;         // device nodes it may open besides null, zero, random, tty, ...
  // A user of this name that exists only while the unit runs; empty = root without capabilities. Two units
  // with the same name share the user.
  std::string own_user;
  std::vector<std::string> groups;  // supplementary ones, as names or numbers that the host knows
  std::optional<int> stdin_fd;      // else /dev/null
  std::uint64_t memory_max = 0;     // bytes; 0 = no limit, also below
  std::uint64_t tasks_max = 0;
  unsigned cpu_percent = 0;  // 100 = one CPU
  std::chrono::milliseconds stop_timeout{10'000};
};

struct TransientStatus {
  bool alive = false;
  pid_t main_pid = 0;
};

// Starts it (Type=exec: returns when the program is executed) without capabilities or privileges. When it
// ends, all that is left in its cgroup is killed and the unit is gone. Code::locked when a unit of that name
// runs, Code::service_failed when the program cannot be executed. The address is as in SystemdOptions.
base::Result<pid_t> start_transient_unit(const TransientUnit& unit, const std::string& address = {});
// The same unit as the text of a unit file, for checks without a running systemd.
base::Result<std::string> render_transient_unit(const TransientUnit& unit);
// SIGKILL to all of it; does not wait. An unknown one is success.
base::Result<> kill_transient_unit(const std::string& name, const std::string& address = {});
// SIGTERM to all of it, SIGKILL after its stop_timeout; waits. An unknown one is success.
base::Result<> stop_transient_unit(const std::string& name, const std::string& address = {});
// An unknown one is not alive.
base::Result<TransientStatus> transient_unit_status(const std::string& name, const std::string& address = {});
// Names of the units that match a glob ("dstack-vm-*") and are loaded.
base::Result<std::vector<std::string>> list_transient_units(const std::string& pattern,
                                                            const std::string& address = {});

}  // namespace dstack::host
