// The VMs of this host: made, started, watched, restarted, removed (spec/host.md sections 4.8 and 4.10).
// Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/result.h"
#include "crypto/hash.h"
#include "proto/vmm_rpc.pb.h"
#include "vmm/accelerator.h"
#include "vmm/clock.h"
#include "vmm/config.h"
#include "vmm/request.h"
#include "vmm/restart_policy.h"
#include "vmm/vm_files.h"
#include "vmm/vm_process.h"

namespace dstack::vmm {

struct VmEvent {
  std::string event;
  std::string body;
  std::int64_t wall_ms = 0;
};

// A VM at one moment.
struct VmView {
  Manifest manifest;  // only the id when `broken`
  std::string status;
  bool running = false;
  Progress progress;
  std::string instance_id;
  std::string image_version;
  std::vector<VmEvent> events;
  std::optional<base::Error> broken;  // why the record on disk is unusable
};

// What the manager asks of its surroundings.
struct ManagerSeams {
  VmProcesses& processes;
  const Clock& clock;
  Machine machine;
  std::string host_api_url;  // as guests reach it
  // Makes an empty qcow2 disk.
  std::function<base::Result<>(const fs::path& disk, std::uint32_t gigabytes)> create_disk;
  // Asks the agent behind a loopback port to power its guest off.
  std::function<base::Result<>(std::uint16_t agent_port, const std::string& token)> shut_guest_down;
};
// The real ones of the last two.
base::Result<> create_qcow2_disk(const fs::path& disk, std::uint32_t gigabytes);
base::Result<> call_guest_shutdown(std::uint16_t agent_port, const std::string& token);

class VmManager {
 public:
  VmManager(Config config, ManagerSeams seams);
  ~VmManager();
  VmManager(const VmManager&) = delete;
  VmManager& operator=(const VmManager&) = delete;

  // Reads all VMs, adopts those that still run and marks the others that should run for the next tick. A VM
  // whose record is unusable is listed as broken and stops nothing.
  base::Result<> load();
  // Ticks from a thread of its own, until destruction.
  void run_in_background();
  // Restarts what is due, finishes removals, bounds logs. For tests; run_in_background() calls it.
  void tick();

  // The id. Either the VM exists and was started, or nothing is left of it.
  base::Result<std::string> create(const ::vmm::VmConfiguration& request);
  base::Result<> start(const std::string& id);
  // Kills and waits for the end.
  base::Result<> stop(const std::string& id);
  // Asks the guest; returns when it accepted. Code::guest_unreachable.
  base::Result<> shutdown(const std::string& id);
  // Returns at once; the VM is listed as "removing" until its process has ended.
  base::Result<> remove(const std::string& id);

  std::vector<VmView> list() const;  // by creation time
  std::optional<VmView> find(const std::string& id) const;
  std::string read_compose(const std::string& id) const;
  std::string read_user_config(const std::string& id) const;
  // Code::vm_not_found, Code::invalid_argument for a channel other than serial, stdout, stderr.
  base::Result<fs::path> log_path(const std::string& id, std::string_view channel) const;

  // Whose host API token is this? Takes the same time for every token.
  std::optional<std::string> vm_of_token(std::string_view token) const;
  // An event from a guest. Bodies above 4096 bytes are dropped.
  base::Result<> notify(const std::string& id, const std::string& event, const std::string& body);

  const Config& config() const { return m_config; }

 private:
  struct Vm;
  using VmPointer = std::shared_ptr<Vm>;

  VmPointer get(const std::string& id) const;
  base::Result<VmPointer> require(const std::string& id) const;
  base::Result<VmPointer> add(const std::string& id, bool fresh);
  VmView view(const Vm& vm) const;

  base::Result<> stage(const PlannedVm& plan, const VmFiles& files) const;
  base::Result<> check_ports(const Manifest& manifest) const;
  base::Result<> start_process(const VmPointer& vm);
  base::Result<LaunchSpec> prepare(const Vm& vm, std::uint16_t agent_port);
  void launch_failed(Vm& vm, const base::Error& error);
  void on_exit(const std::string& id, pid_t pid, std::optional<int> code);
  base::Result<> finish_removal(const std::string& id);
  bool wait_ended(const std::string& id, std::chrono::milliseconds limit);
  bool kms_may_still_boot(std::int64_t now) const;

  void push_event(Vm& vm, std::string event, std::string body);
  void set_started(Vm& vm, bool started);
  void save_progress(Vm& vm);

  Config m_config;
  ManagerSeams m_seams;
  // Order: m_operation before m_mutex. The first serialises what changes VMs, the second guards the fields.
  std::mutex m_operation;
  mutable std::mutex m_mutex;
  std::condition_variable m_changed;
  std::map<std::string, VmPointer> m_vms;
  std::int64_t m_next_log_check = 0;
  std::int64_t m_kms_patience_ends = 0;
  bool m_stop = false;
  bool m_wake = false;
  std::thread m_thread;
};

}  // namespace dstack::vmm
