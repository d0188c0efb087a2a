#include "vmm/systemd_launcher.h"

#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "crypto/hash.h"
#include "host/transient_unit.h"
#include "vmm/passed_files.h"
#include "vmm/vm_user.h"

namespace dstack::vmm {

namespace {

// This very program: it takes the VM's files out of its standard input and becomes QEMU. An upgrade may have
// replaced it while it runs.
std::string own_program() {
  std::error_code error;
  auto path = fs::read_symlink("/proc/self/exe", error).native();
  constexpr std::string_view k_replaced = " (deleted)";
  if (path.ends_with(k_replaced)) {
    path.resize(path.size() - k_replaced.size());
  }
  return path;
}

// systemd takes 31 lower-case letters, digits and hyphens; VMs with one name would share one user.
std::string user_name(const std::string& vm_id) {
  constexpr std::size_t k_length = 20;
  return "dstack-" + crypto::sha256_hex(vm_id).substr(0, k_length);
}

class SystemdLauncher : public VmLauncher {
 public:
  explicit SystemdLauncher(std::string bus_address) : m_bus_address(std::move(bus_address)) {}

  base::Result<pid_t> launch(const ProcessSpec& spec) override {
    // Systemd opens the logs as root; all else the process is given open.
    DS_TRY(const auto files, open_files(spec.files, /*other_user=*/true));
    DS_TRY(const auto socket, hand_over(files));
    auto unit = vm_unit(spec);
    unit.stdin_fd = socket.get();
    return host::start_transient_unit(unit, m_bus_address);
  }

  base::Result<> kill(const std::string& vm_id) override {
    return host::kill_transient_unit(vm_unit_name(vm_id), m_bus_address);
  }

  std::optional<pid_t> find(const std::string& vm_id) override {
    const auto status = host::transient_unit_status(vm_unit_name(vm_id), m_bus_address);
    if (!status) {
      base::log_warn(status.error().what());
      return std::nullopt;
    }
    return status->alive ? std::optional(status->main_pid) : std::nullopt;
  }

 private:
  std::string m_bus_address;
};

}  // namespace

std::string vm_unit_name(const std::string& vm_id) {
  return "dstack-vm-" + vm_id;
}

host::TransientUnit vm_unit(const ProcessSpec& spec) {
  host::TransientUnit unit;
  unit.name = vm_unit_name(spec.vm_id);
  unit.description = "dstack VM " + spec.vm_id;
  unit.argv = {own_program(), std::string(k_run_vm)};
  unit.argv.insert(unit.argv.end(), spec.argv.begin(), spec.argv.end());
  unit.environment = {std::string("PATH=") + base::k_tool_path, "LANG=C.UTF-8"};
  unit.directory = spec.directory.native();
  unit.stdout_file = spec.stdout_log.native();
  unit.stderr_file = spec.stderr_log.native();
  unit.own_user = user_name(spec.vm_id);
  unit.readable_paths = {fs::path(unit.argv.front()).parent_path().native(),
                         fs::path(spec.argv.front()).parent_path().native()};
  if (spec.kvm) {
    unit.devices = {"/dev/kvm"};
    if (const auto group = device_access("/dev/kvm").group) {
      unit.groups = {std::to_string(*group)};
    }
  }
  unit.memory_max = spec.limits.memory_bytes;
  unit.tasks_max = spec.limits.tasks;
  unit.cpu_percent = spec.limits.cpu_percent;
  return unit;
}

std::unique_ptr<VmLauncher> make_systemd_launcher(std::string bus_address) {
  return std::make_unique<SystemdLauncher>(std::move(bus_address));
}

}  // namespace dstack::vmm
