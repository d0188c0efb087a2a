#include "vmm/systemd_launcher.h"

#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "host/transient_unit.h"

namespace dstack::vmm {

namespace {

class SystemdLauncher : public VmLauncher {
 public:
  explicit SystemdLauncher(std::string bus_address) : m_bus_address(std::move(bus_address)) {}

  base::Result<pid_t> launch(const ProcessSpec& spec) override {
    host::TransientUnit unit;
    unit.name = vm_unit_name(spec.vm_id);
    unit.description = "dstack VM " + spec.vm_id;
    unit.argv = spec.argv;
    unit.environment = {std::string("PATH=") + base::k_tool_path, "LANG=C.UTF-8"};
    unit.directory = spec.directory.native();
    unit.stdout_file = spec.stdout_log.native();
    unit.stderr_file = spec.stderr_log.native();
    unit.writable_paths = {spec.directory.native()};
    // Those that are missing on this host are passed over by systemd.
    unit.devices = {"/dev/kvm", "/dev/vhost-vsock", "/dev/vhost-net", "/dev/net/tun", "/dev/sev"};
    return host::start_transient_unit(unit, m_bus_address);
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

std::unique_ptr<VmLauncher> make_systemd_launcher(std::string bus_address) {
  return std::make_unique<SystemdLauncher>(std::move(bus_address));
}

}  // namespace dstack::vmm
