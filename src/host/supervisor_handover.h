// What a supervisor leaves to the program that goes on in its place. exec keeps the process with its
// children, its open files and its blocked signals, so nobody sees a change; the rest is written into a
// memory file.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "host/service_manager.h"
#include "host/supervisor.h"

namespace dstack::host {

// Raised when a program that knows only the number before could misread what is handed over.
inline constexpr int k_handover_format = 1;

// One service; times count on the machine's monotonic clock. Descriptors are numbers of this process, -1:
// none.
struct ServiceMemory {
  using Clock = std::chrono::steady_clock;
  ServiceSpec spec;
  std::string cookie;
  int notify_fd = -1;
  pid_t pid = 0;
  ServiceState state = ServiceState::stopped;
  std::int64_t since_unix = 0;
  Clock::time_point entered;
  std::optional<Clock::time_point> deadline;
  std::optional<ServiceSpec> next;
  bool commanded = false;
  bool timed_out = false;
  std::string text;
  int error_number = 0;
  std::string result;
  unsigned restarts = 0;
  std::chrono::milliseconds delay{0};
  std::vector<Clock::time_point> starts;
};

struct ConnectionMemory {
  int fd = -1;
  std::string input;
  bool waiting = false;  // its request was begun
};

struct SupervisorMemory {
  SupervisorOptions options;
  int control_fd = -1;
  std::vector<ServiceMemory> services;
  std::vector<ConnectionMemory> connections;
};

std::string to_text(const SupervisorMemory& memory);
base::Result<SupervisorMemory> parse_memory(std::string_view text);

// Runs `program` in the place of this process. Returns only when that fails; then all is as it was.
base::Error become(const std::string& program, const SupervisorMemory& memory);

// In the new program: what the old one handed over, its descriptors closed to children again.
base::Result<SupervisorMemory> take_memory(base::Fd file);

}  // namespace dstack::host
