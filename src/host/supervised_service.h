// One service of the built-in supervisor: a process, its readiness, its restarts and its end.
// Single-threaded; the supervisor's loop calls in.
#pragma once

#include <chrono>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "host/cgroup.h"
#include "host/service_manager.h"
#include "host/supervisor_handover.h"

namespace dstack::host {

class SupervisedService {
 public:
  using Clock = std::chrono::steady_clock;

  // `cgroup` is the directory the service's processes are put in, "" where there is no cgroup v2.
  SupervisedService(ServiceSpec spec, std::filesystem::path log_file, std::string cgroup);

  // Goes on with a service of the supervisor of before.
  SupervisedService(ServiceMemory memory, std::filesystem::path log_file, std::string cgroup);
  // For the supervisor that goes on with it.
  ServiceMemory memory() const;

  // Brings the service up with this definition: launches it, restarts it when the definition differs or
  // `force`, and leaves it alone when it is up already.
  void start(ServiceSpec spec, bool force);
  void stop();
  // The main process ended with this wait status.
  void on_exit(int wait_status);
  void on_notify();
  // Does what is due: kills, restarts.
  void on_time();
  // When on_time() wants to be called next.
  std::optional<Clock::time_point> deadline() const { return m_deadline; }
  void rotate_log(std::size_t limit) const;

  // No transition is under way that a caller should wait for.
  bool settled() const;
  ServiceStatus status() const;
  // ok when active, else the reason and the last log lines.
  base::Result<> start_result() const;
  pid_t pid() const { return m_pid; }
  int notify_fd() const { return m_notify.get(); }

 private:
  void launch();
  void enter(ServiceState state);
  void drain_notify();
  void kill_main(int signal) const;
  // Ends what the service left behind, unless its children may outlive it.
  void clear_remains() const;
  bool too_many_starts();

  ServiceSpec m_spec;
  std::filesystem::path m_log_file;
  Cgroup m_cgroup;
  bool m_has_cgroup;
  std::string m_cookie;  // finds stray processes by their environment where there is no cgroup
  base::Fd m_notify;
  pid_t m_pid = 0;
  ServiceState m_state = ServiceState::stopped;
  std::int64_t m_since_unix = 0;
  Clock::time_point m_entered;
  std::optional<Clock::time_point> m_deadline;
  std::optional<ServiceSpec> m_next;  // start this once the stop under way is complete
  bool m_commanded = false;           // this start was asked for, it is not a restart after a crash
  bool m_timed_out = false;
  std::string m_text;
  int m_error_number = 0;
  std::string m_result;
  unsigned m_restarts = 0;
  std::chrono::milliseconds m_delay{0};
  std::deque<Clock::time_point> m_starts;
};

// The last `count` lines of a file, control characters escaped; none when it cannot be read.
std::vector<std::string> tail_lines(const std::filesystem::path& file, std::size_t count);

}  // namespace dstack::host
