// The seam to a VM's process: real QEMU in production, a script in tests.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "vmm/qemu_args.h"

namespace dstack::vmm {

namespace fs = std::filesystem;

// Names one process for good: a pid alone may be reused, even after a reboot.
struct ProcessRecord {
  pid_t pid = 0;
  unsigned long long start_time = 0;  // clock ticks since boot
  std::string boot_id;
  std::int64_t started_at_ms = 0;
  std::uint16_t agent_port = 0;  // loopback port that leads to the guest's agent
  std::string accelerator;       // "kvm" or "tcg"
  bool operator==(const ProcessRecord&) const = default;
};

// `<vm>/qemu.json`.
std::string process_record_to_json(const ProcessRecord& record);
base::Result<ProcessRecord> parse_process_record(std::string_view json);

struct ProcessSpec {
  std::string vm_id;
  std::vector<std::string> argv;
  fs::path directory;
  fs::path stdout_log;  // appended to
  fs::path stderr_log;
  // Held by the process for its whole life: whoever holds it runs this VM.
  fs::path lock_file;
  std::vector<PassedFile> files;  // all that it may open of this host, already open
  bool kvm = false;               // it may open /dev/kvm too
  ResourceLimits limits;          // 0 = none
};

// Told about the end of a process; the exit code is known only for children of this very program.
using ExitHandler = std::function<void(const std::string& vm_id, pid_t pid, std::optional<int> exit_code)>;

class VmProcesses {
 public:
  virtual ~VmProcesses() = default;

  // Before start() and adopt(). The handler runs on a thread of the implementation.
  virtual void on_exit(ExitHandler handler) = 0;
  // Starts a process that outlives this program. Fills pid, start_time and boot_id. Code::vm_start;
  // Code::locked when another process runs this VM.
  virtual base::Result<ProcessRecord> start(const ProcessSpec& spec) = 0;
  // Watches a process that an earlier run of this program started. False when it is gone.
  virtual bool adopt(const std::string& vm_id, const ProcessRecord& record) = 0;
  // The process that runs a VM without a record of it, if there is one: this program died between starting it
  // and writing it down.
  virtual std::optional<ProcessRecord> find_unrecorded(const std::string& vm_id,
                                                       const fs::path& lock_file) = 0;
  // SIGKILL to the process and all it started. The exit handler follows.
  virtual void kill(const std::string& vm_id) = 0;
};

// Another way to bring a process to life than as a child of this program, for instance as a unit of a service
// manager.
class VmLauncher {
 public:
  virtual ~VmLauncher() = default;
  // The main pid. Starting a VM that already runs is Code::locked. The lock file need not be held.
  virtual base::Result<pid_t> launch(const ProcessSpec& spec) = 0;
  virtual base::Result<> kill(const std::string& vm_id) = 0;
  // The main pid of a VM that this launcher started earlier, when it still runs.
  virtual std::optional<pid_t> find(const std::string& vm_id) = 0;
};

struct ProcessOptions {
  fs::path cgroup_root;         // cgroup v2 directory in which each process gets its own; empty = none
  bool separate_users = false;  // each process gets a user of its own (vm_user.h)
  std::unique_ptr<VmLauncher> launcher;  // with one, the two above are its business
};
// Real processes, watched by pidfd. Without a launcher they are children in a session of their own.
std::unique_ptr<VmProcesses> make_vm_processes(ProcessOptions options);

}  // namespace dstack::vmm
