#include "vmm/manager.h"

#include <algorithm>
#include <chrono>

#include "app/app_compose.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "crypto/random.h"
#include "host/image.h"
#include "vmm/manager_vm.h"
#include "vmm/vm_logs.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;

namespace {

constexpr std::chrono::seconds k_kill_wait{10};
constexpr std::int64_t k_kms_patience_ms = 180'000;

void log_if_failed(const Result<>& result) {
  if (!result) {
    base::log_warn(result.error().what());
  }
}

}  // namespace

VmManager::VmManager(Config config, ManagerSeams seams)
    : m_config(std::move(config)), m_seams(std::move(seams)) {
  m_seams.processes.on_exit(
      [this](const std::string& id, pid_t pid, std::optional<int> code) { on_exit(id, pid, code); });
}

VmManager::~VmManager() {
  {
    const std::lock_guard lock(m_mutex);
    m_stop = true;
  }
  m_changed.notify_all();
  if (m_thread.joinable()) {
    m_thread.join();
  }
  m_seams.processes.on_exit({});
}

VmManager::VmPointer VmManager::get(const std::string& id) const {
  const auto it = m_vms.find(id);
  return it == m_vms.end() ? nullptr : it->second;
}

Result<VmManager::VmPointer> VmManager::require(const std::string& id) const {
  const std::lock_guard lock(m_mutex);
  auto vm = get(id);
  if (!vm) {
    return fail(Code::vm_not_found, base::format("VM not found: {}", base::escape_control(id.substr(0, 64))),
                "list the VMs with `dstack apps`");
  }
  return vm;
}

Result<> VmManager::load() {
  const std::lock_guard operation(m_operation);
  DS_CHECK(base::make_dirs(m_config.run_path, 0700));
  DS_TRY(const auto ids, list_vm_ids(m_config.run_path));
  m_kms_patience_ends = m_seams.clock.steady_ms() + k_kms_patience_ms;
  for (const auto& id : ids) {
    DS_TRY(const auto vm, add(id, /*fresh=*/false));
    const std::lock_guard lock(m_mutex);
    if (vm->broken) {
      base::log_error(base::format("VM {}: {}", id, vm->broken->what()));
      continue;
    }
    const bool recorded = vm->process.has_value();
    if (!vm->process || !m_seams.processes.adopt(id, *vm->process)) {
      vm->process = m_seams.processes.find_unrecorded(id, vm->files.lock());
      if (vm->process) {
        vm->process->started_at_ms = vm->progress.started_at_ms;
        if (m_seams.processes.adopt(id, *vm->process)) {
          log_if_failed(vm->files.write_process(*vm->process));
        } else {
          vm->process.reset();
        }
      }
    }
    if (vm->process) {
      base::log_info(
          base::format("VM {} ({}) still runs as process {}", id, vm->manifest.name, vm->process->pid));
    } else if (recorded) {
      log_if_failed(vm->files.remove_process());
      vm->progress.stopped_at_ms = m_seams.clock.wall_ms();
      save_progress(*vm);
    }
    vm->start_due = !vm->process && vm->started && !vm->removing;
    // A stop that a crash cut off between its record and its deed; a guest that powers off by itself is left
    // to it.
    vm->kill_due = vm->process && !vm->started && vm->progress.shutdown_progress.empty();
  }
  return {};
}

Result<VmManager::VmPointer> VmManager::add(const std::string& id, bool fresh) {
  auto vm = std::make_shared<Vm>(m_config.run_path / id, m_config.auto_restart);
  vm->manifest.id = id;
  vm->removing = vm->files.removing();
  vm->started = vm->files.read_started() && !vm->removing;
  auto manifest = vm->files.read_manifest();
  auto token = vm->files.read_token();
  if (!manifest) {
    vm->broken = manifest.error();
  } else if (!token) {
    vm->broken = base::Error{Code::vm_record, "the VM's token cannot be read", token.error().what(),
                             "remove the VM and deploy its app again"};
  } else {
    vm->manifest = std::move(*manifest);
    vm->token = std::move(*token);
    vm->token_hash = crypto::sha256(base::as_bytes(vm->token));
    vm->instance_id = vm->files.read_instance_id();
    vm->progress = vm->files.read_progress();
    const auto compose =
        app::parse_app_compose(base::read_file(vm->files.compose(), 64 * 1024 * 1024).value_or(""));
    vm->needs_kms = compose && compose->kms_enabled;
    vm->process = vm->files.read_process();
    if (const auto image = host::find_image(m_config.image_path, vm->manifest.image)) {
      vm->image_version = image->metadata.version;
    } else if (fresh) {
      return fail(image.error());
    }
  }
  const std::lock_guard lock(m_mutex);
  m_vms[id] = vm;
  return vm;
}

// After a reboot of the host all VMs are due at once, and the KMS is in one of them. Those whose apps need no
// keys go first; the others follow when these are up, or have failed, or take too long.
bool VmManager::kms_may_still_boot(std::int64_t now) const {
  return now < m_kms_patience_ends &&
         std::any_of(
             m_vms.begin(), m_vms.end(),
             [](const auto& entry) {
               const auto& other = *entry.second;
               return !other.needs_kms && !other.broken && !other.removing && other.started &&
                      (other.start_due || (other.process && other.progress.boot_progress != "done" &&
                                           other.progress.boot_error.empty()));
             });
}

void VmManager::run_in_background() {
  m_thread = std::thread([this] {
    const auto interval = m_config.auto_restart.interval;
    while (true) {
      tick();
      std::unique_lock lock(m_mutex);
      m_changed.wait_for(lock, interval, [this] { return m_stop || m_wake; });
      m_wake = false;
      if (m_stop) {
        return;
      }
    }
  });
}

void VmManager::tick() {
  struct Due {
    VmPointer vm;
    std::string id;
  };
  std::vector<Due> starts;
  std::vector<std::string> removals;
  std::vector<std::string> kills;
  std::vector<fs::path> logs;
  {
    const std::lock_guard lock(m_mutex);
    const auto now = m_seams.clock.steady_ms();
    const bool check_logs = now >= m_next_log_check;
    if (check_logs) {
      m_next_log_check =
          now + std::chrono::duration_cast<std::chrono::milliseconds>(m_config.log.check_interval).count();
    }
    // Before any of them counts as started.
    const bool wait_for_kms = kms_may_still_boot(now);
    for (const auto& [id, vm] : m_vms) {
      const bool running = vm->process.has_value();
      if (vm->removing) {
        (running ? kills : removals).push_back(id);
        continue;
      }
      if (running && check_logs) {
        for (const auto* channel : {"serial", "stdout", "stderr"}) {
          logs.push_back(vm->files.log(channel));
        }
      }
      if (vm->kill_due && running) {
        kills.push_back(id);
      }
      if (vm->broken || !vm->started) {
        continue;
      }
      if (vm->start_due && vm->needs_kms && wait_for_kms) {
        continue;
      }
      if (vm->start_due && !running) {
        vm->start_due = false;
        starts.push_back({vm, id});
        continue;
      }
      switch (vm->restart.look(now, running)) {
        case RestartPolicy::Action::none:
          break;
        case RestartPolicy::Action::start:
          starts.push_back({vm, id});
          break;
        case RestartPolicy::Action::exhausted:
          push_event(*vm, "vmm.auto_restart.exhausted",
                     base::format("gave up after {} attempts", vm->restart.attempts()));
          base::log_error(
              base::format("VM {}: gave up restarting it after {} attempts", id, vm->restart.attempts()));
          break;
      }
    }
  }
  for (const auto& [vm, id] : starts) {
    const std::lock_guard operation(m_operation);
    base::log_info(base::format("starting VM {} again", id));
    if (const auto started = start_process(vm); !started) {
      base::log_error(base::format("VM {}: {}", id, started.error().what()));
      const std::lock_guard lock(m_mutex);
      launch_failed(*vm, started.error());
    }
  }
  for (const auto& id : kills) {
    m_seams.processes.kill(id);
  }
  for (const auto& id : removals) {
    const std::lock_guard operation(m_operation);
    log_if_failed(finish_removal(id));
  }
  for (const auto& path : logs) {
    log_if_failed(bound_log(path, m_config.log, m_seams.clock.wall_ms()));
  }
}

Result<> VmManager::check_ports(const Manifest& manifest) const {
  const std::lock_guard lock(m_mutex);
  for (const auto& [id, vm] : m_vms) {
    for (const auto& taken : vm->manifest.ports) {
      for (const auto& wanted : manifest.ports) {
        if (!vm->removing && ports_overlap(taken, wanted)) {
          return fail(Code::vm_port_taken,
                      base::format("host port mapping conflicts with VM {} ({}): {} {}:{}", id,
                                   vm->manifest.name, taken.protocol, taken.address, taken.host_port),
                      base::format("choose another host port than {}, or remove that VM", taken.host_port));
        }
      }
    }
  }
  return {};
}

Result<std::string> VmManager::create(const ::vmm::VmConfiguration& request) {
  DS_TRY(auto plan, plan_vm(m_config, request));
  const std::lock_guard operation(m_operation);
  DS_CHECK(host::find_image(m_config.image_path, plan.manifest.image));
  DS_CHECK(check_ports(plan.manifest));
  for (const auto& port : plan.manifest.ports) {
    DS_CHECK(check_port_free(port));
  }
  DS_TRY(auto id, new_vm_id());
  plan.manifest.id = id;
  plan.manifest.created_at_ms = static_cast<std::uint64_t>(m_seams.clock.wall_ms());

  // The VM appears in one step, so that a crash leaves either all of it or a directory that load() deletes.
  const auto staging = staging_directory(m_config.run_path, id);
  const auto final_place = m_config.run_path / id;
  auto result = stage(plan, VmFiles(staging));
  if (result) {
    result = VmFiles(staging).write_started(!request.stopped());
  }
  if (result) {
    std::error_code error;
    fs::rename(staging, final_place, error);
    if (error) {
      result = base::fail_errno(Code::io, "cannot create the VM's directory", error.value());
    }
  }
  if (result) {
    auto vm = add(id, /*fresh=*/true);
    if (!vm) {
      result = fail(std::move(vm).error());
    } else if (!request.stopped()) {
      result = start_process(*vm);
    }
  }
  if (!result) {
    {
      const std::lock_guard lock(m_mutex);
      m_vms.erase(id);
    }
    log_if_failed(base::remove_tree(staging));
    log_if_failed(base::remove_tree(final_place));
    return fail(std::move(result).error());
  }
  base::log_info(base::format("created VM {} ({})", id, plan.manifest.name));
  return id;
}

Result<> VmManager::stage(const PlannedVm& plan, const VmFiles& files) const {
  DS_CHECK(base::make_dirs(files.shared(), 0700));
  DS_CHECK(files.write_manifest(plan.manifest));
  const base::WriteOptions secret{.mode = 0600};
  DS_CHECK(base::write_file_atomic(files.compose(), plan.compose_file, secret));
  if (plan.app_id_from_request) {
    DS_CHECK(base::write_file_atomic(
        files.instance_info(), base::format("{{\"app_id\":\"{}\"}}", *plan.app_id_from_request), secret));
  }
  if (!plan.encrypted_env.empty()) {
    DS_CHECK(base::write_file_atomic(files.encrypted_env(), plan.encrypted_env, secret));
  }
  if (!plan.user_config.empty()) {
    DS_CHECK(base::write_file_atomic(files.user_config(), plan.user_config, secret));
  }
  DS_TRY(const auto token, crypto::random_bytes(32));
  return files.write_token(base::to_hex(token));
}

Result<> VmManager::start(const std::string& id) {
  const std::lock_guard operation(m_operation);
  DS_TRY(const auto vm, require(id));
  {
    const std::lock_guard lock(m_mutex);
    if (vm->removing) {
      return fail(Code::vm_state, base::format("VM {} is being removed", id));
    }
    vm->restart.reset();
    vm->start_due = false;
    vm->kill_due = false;
    if (vm->process) {
      set_started(*vm, true);
      return {};
    }
  }
  // The intent first: a crash after the start must not find a process that nobody wants.
  bool before = false;
  {
    const std::lock_guard lock(m_mutex);
    before = vm->started;
    set_started(*vm, true);
  }
  auto result = start_process(vm);
  if (!result) {
    const std::lock_guard lock(m_mutex);
    set_started(*vm, before);
  }
  return result;
}

Result<> VmManager::stop(const std::string& id) {
  const std::lock_guard operation(m_operation);
  DS_TRY(const auto vm, require(id));
  {
    const std::lock_guard lock(m_mutex);
    vm->restart.reset();
    vm->start_due = false;
    set_started(*vm, false);
  }
  m_seams.processes.kill(id);
  if (!wait_ended(id, k_kill_wait)) {
    return fail(Code::timeout, base::format("the process of VM {} does not end", id),
                "look for a process in state D; the host's disk may hang");
  }
  return {};
}

bool VmManager::wait_ended(const std::string& id, std::chrono::milliseconds limit) {
  std::unique_lock lock(m_mutex);
  return m_changed.wait_for(lock, limit, [this, &id] {
    const auto vm = get(id);
    return !vm || !vm->process;
  });
}

Result<> VmManager::shutdown(const std::string& id) {
  DS_TRY(const auto vm, require(id));
  std::uint16_t port = 0;
  {
    const std::lock_guard lock(m_mutex);
    if (!vm->process) {
      return fail(Code::vm_state, base::format("VM {} is not running", id));
    }
    port = vm->process->agent_port;
  }
  // Not under the operation lock: the guest may take its time.
  if (auto asked = m_seams.shut_guest_down(port, vm->token); !asked) {
    auto error = std::move(asked).error();
    error.code = Code::guest_unreachable;
    error.fix = "stop it with StopVm, which does not need the guest";
    return fail(std::move(error), base::format("the guest of VM {} did not accept the shutdown", id));
  }
  const std::lock_guard lock(m_mutex);
  vm->shutdown_requested = true;
  return {};
}

Result<> VmManager::remove(const std::string& id) {
  {
    const std::lock_guard operation(m_operation);
    DS_TRY(const auto vm, require(id));
    DS_CHECK(vm->files.mark_removing());
    bool running = false;
    {
      const std::lock_guard lock(m_mutex);
      vm->removing = true;
      vm->start_due = false;
      vm->started = false;
      running = vm->process.has_value();
    }
    if (!running) {
      return finish_removal(id);
    }
  }
  m_seams.processes.kill(id);
  return {};
}

Result<> VmManager::finish_removal(const std::string& id) {
  const auto vm = require(id);
  if (!vm) {
    return {};
  }
  {
    const std::lock_guard lock(m_mutex);
    if ((*vm)->process) {
      return {};
    }
  }
  const auto discarded = discarded_directory(m_config.run_path, id);
  std::error_code error;
  fs::rename((*vm)->files.directory(), discarded, error);
  if (error && error != std::errc::no_such_file_or_directory) {
    return base::fail_errno(Code::io, base::format("cannot remove VM {}", id), error.value());
  }
  {
    const std::lock_guard lock(m_mutex);
    m_vms.erase(id);
  }
  base::log_info(base::format("removed VM {}", id));
  return base::remove_tree(discarded);
}

}  // namespace dstack::vmm
