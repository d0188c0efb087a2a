// cgroup v2 directories of our own, so that nothing a service starts can escape its stop. No controllers are
// used.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace dstack::host {

// A cgroup2 mount point in which directories can be made, out of a mounts table (/proc/self/mounts); nullopt
// when there is none. In hybrid set-ups it is /sys/fs/cgroup/unified.
std::optional<std::string> find_cgroup2_mount(const std::string& mounts_file = "/proc/self/mounts");

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
  // SIGKILL to all processes in it and below, then waits until it is empty.
  base::Result<> kill(std::chrono::milliseconds limit = std::chrono::seconds(5)) const;
  // rmdir of it and its descendants; only works when empty. A missing one is success.
  base::Result<> remove() const;

 private:
  std::string m_path;
};

}  // namespace dstack::host
