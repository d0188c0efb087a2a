// The seam between install and whatever runs services: systemd where it is PID 1, else the built-in
// supervisor.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/layout.h"

namespace dstack::host {

// How far a service may be locked down.
enum class Sandbox {
  none,
  strict,    // reads its files, listens on loopback, nothing else (dstack-auth)
  launcher,  // starts QEMU and writes below its state directory (dstack-vmm)
};

// A service is ready when it says READY=1 on NOTIFY_SOCKET; it is restarted when it ends.
struct ServiceSpec {
  std::string name;  // unit name without ".service", [A-Za-z0-9._-]
  std::string description;
  std::vector<std::string> argv;         // argv[0] absolute
  std::vector<std::string> environment;  // "K=V", added to a fixed PATH and LANG
  std::string directory;
  std::vector<std::string> after;           // names of services that start earlier
  std::vector<std::string> writable_paths;  // for the sandbox
  std::vector<std::string> readable_paths;  // for the sandbox: needed although below a hidden directory
  Sandbox sandbox = Sandbox::none;
  // What it may take at most, without what it starts in cgroups of their own; 0: no limit.
  std::uint64_t memory_max = 0;  // bytes
  std::uint64_t tasks_max = 0;
  std::uint64_t open_files = 65536;  // RLIMIT_NOFILE; 0: as its starter has it
  // Processes the service leaves in cgroups of their own (or sessions of their own) survive its stop.
  bool children_outlive = false;
  std::chrono::milliseconds start_timeout{20'000};
  std::chrono::milliseconds stop_timeout{20'000};
  std::chrono::milliseconds restart_delay{1'000};  // first one; the supervisor doubles it up to 30 s
  int start_limit = 5;                             // starts within start_limit_interval, then "failed"
  std::chrono::milliseconds start_limit_interval{60'000};
};

enum class ServiceState { unknown, stopped, starting, active, stopping, waiting, failed };
std::string_view to_string(ServiceState state);

struct ServiceStatus {
  std::string name;
  ServiceState state = ServiceState::unknown;  // unknown = the manager has no such service
  pid_t pid = 0;
  std::string text;      // the service's last STATUS=
  int error_number = 0;  // its last ERRNO=
  std::string result;    // why it is not running: "exit code 3", "killed by signal 9", "timeout", ...
  unsigned restarts = 0;
  std::int64_t since_unix = 0;  // when the state was entered
};

class ServiceManager {
 public:
  virtual ~ServiceManager() = default;

  virtual std::string kind() const = 0;         // "systemd" or "supervisor"
  virtual std::string description() const = 0;  // for the terminal, with the reason of the choice

  // Defines (or redefines) and starts a service, waits until it is ready. A running service with the same
  // definition is left alone; with another one it is restarted. Code::service_failed carries the service's
  // own reason and its last log lines; then the service is not running.
  virtual base::Result<> start(const ServiceSpec& spec) = 0;
  virtual base::Result<> restart(const ServiceSpec& spec) = 0;
  // Stops and waits; an unknown or stopped service is success.
  virtual base::Result<> stop(const std::string& name) = 0;
  // stop() and forget the definition (unit file, log). Idempotent.
  virtual base::Result<> remove(const std::string& name) = 0;
  virtual base::Result<ServiceStatus> status(const std::string& name) = 0;
  virtual base::Result<std::vector<std::string>> logs(const std::string& name, std::size_t lines) = 0;
  // After the last service is removed: ends what the manager itself left running or lying around.
  virtual base::Result<> shut_down() = 0;
};

struct ServiceManagerOptions {
  Layout layout;
  std::string instance;
  std::string supervisor_program;  // dstackup itself; run as `dstackup supervise`
  std::string supervisor_bin;      // --supervisor-bin: rather than its own copy; "" = not given
  bool may_start = true;           // false: never start the supervisor daemon (status, destroy)
  // Called often, with what is waited for, while something takes longer than a second.
  std::function<void(std::string_view)> waiting = {};
};

// systemd if /run/systemd/system exists and PID 1 is systemd, else the supervisor.
base::Result<std::unique_ptr<ServiceManager>> open_service_manager(const ServiceManagerOptions& options);

std::unique_ptr<ServiceManager> make_supervisor_manager(const ServiceManagerOptions& options);
std::unique_ptr<ServiceManager> make_systemd_manager(const ServiceManagerOptions& options);

bool systemd_is_running();

}  // namespace dstack::host
