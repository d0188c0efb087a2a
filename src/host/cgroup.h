// cgroup v2 directories of our own, so that nothing a service starts can escape its stop, and that a VM takes
// no more than its share.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace dstack::host {

// A cgroup2 mount point in which directories can be made, out of a mounts table (/proc/self/mounts); nullopt
// when there is none. In hybrid set-ups it is /sys/fs/cgroup/unified. Code::io when the table cannot be read:
// then nobody knows.
base::Result<std::optional<std::string>> find_cgroup2_mount(
    const std::string& mounts_file = "/proc/self/mounts");

// 0 = none.
struct CgroupLimits {
  std::uint64_t memory_bytes = 0;
  std::uint64_t tasks = 0;
  unsigned cpu_percent = 0;  // 100 = one CPU
};

// One cgroup v2 directory.
class Cgroup {
 public:
  explicit Cgroup(std::string path) : m_path(std::move(path)) {}

  const std::string& path() const { return m_path; }
  // mkdir -p below the mount.
  base::Result<> create() const;
  bool exists() const;
  // Processes in it and its descendants.
  std::vector<pid_t> pids() const;
  bool populated() const;
  // Sets memory.max, pids.max and cpu.max. The controllers they need are handed down from the parent and its
  // parent as far as these have them. Returns the names of the limits that could not be set.
  std::vector<std::string> limit(const CgroupLimits& limits) const;
  // SIGKILL to all processes in it and below, without waiting. Does nothing where there is no cgroup.kill.
  void signal_kill() const;
  // SIGKILL to all processes in it and below, then waits until it is empty.
  base::Result<> kill(std::chrono::milliseconds limit = std::chrono::seconds(5)) const;
  // rmdir of it and its descendants; only works when empty. A missing one is success.
  base::Result<> remove() const;

 private:
  std::string m_path;
};

}  // namespace dstack::host
