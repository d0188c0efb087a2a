#include "vmm/daemon.h"

#include <arpa/inet.h>

#include <array>
#include <chrono>
#include <memory>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/notify.h"
#include "host/service_manager.h"
#include "net/server.h"
#include "vmm/accelerator.h"
#include "vmm/api.h"
#include "vmm/manager.h"
#include "vmm/systemd_launcher.h"
#include "vmm/vm_process.h"
#include "vmm/vm_user.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;

namespace {

// Guests send single events; more is not theirs to ask for.
net::ServerOptions host_api_options() {
  net::ServerOptions options;
  options.max_body = 64 * 1024;
  options.max_connections = 128;
  options.workers = 4;
  options.server_header = version_header();
  return options;
}

net::ServerOptions external_options() {
  net::ServerOptions options;
  // An app-compose has up to 50 MiB in the guest's eyes; JSON may escape it.
  options.max_body = 64 * 1024 * 1024;
  options.workers = 8;
  options.server_header = version_header();
  return options;
}

// The network sees it: strangers must not use up what local clients need.
net::ServerOptions exposed_options() {
  auto options = external_options();
  options.max_connections = 64;
  options.workers = 4;
  options.header_timeout = std::chrono::seconds(5);
  options.idle_timeout = std::chrono::seconds(15);
  return options;
}

Result<> listen(net::Server& server, const ListenAddress& address, std::uint16_t& port) {
  if (!address.unix_path.empty()) {
    return server.listen_unix(address.unix_path);
  }
  DS_TRY(port, server.listen_tcp(address.ip, address.port));
  return {};
}

// Guests see the host's loopback as the second address of their user-mode network.
std::string guest_gateway(const std::string& net) {
  in_addr address{};
  std::array<char, INET_ADDRSTRLEN> text{};
  if (::inet_pton(AF_INET, net.substr(0, net.find('/')).c_str(), &address) != 1) {
    return "10.0.2.2";
  }
  address.s_addr = htonl(ntohl(address.s_addr) + 2);
  ::inet_ntop(AF_INET, &address, text.data(), text.size());
  return text.data();
}

// A child would be killed with the VM manager's unit, so systemd gets the VMs as units of their own.
std::unique_ptr<VmProcesses> make_processes(const Config& config, bool systemd, const VmUsers& users) {
  ProcessOptions options;
  options.separate_users = users.separate;
  if (systemd) {
    options.launcher = make_systemd_launcher();
  } else {
    options.cgroup_root = config.cgroup_root;
  }
  return make_vm_processes(std::move(options));
}

}  // namespace

Result<> serve(const Config& config) {
  DS_CHECK(check_servable(config));
  for (const auto& key : config.unknown_keys) {
    base::log_warn(base::format("the configuration's `{}` has no meaning for this version", key));
  }
  if (!config.auth.enabled) {
    base::log_warn("[auth] is not enabled: every local user may make and remove VMs");
  }
  DS_CHECK(base::make_dirs(config.run_path, 0700));
  DS_TRY(const auto lock, base::FileLock::try_acquire(config.run_path / ".lock"));
  if (!lock) {
    return fail(Code::locked,
                base::format("another dstack-vmm runs with run_path {}", config.run_path.native()),
                "stop it first, or choose another run_path");
  }
  const bool systemd = host::systemd_is_running();
  const auto users = vm_users(systemd);
  base::log_info(users.description);
  DS_TRY(const auto machine,
         probe_machine(config.qemu_path, config.accelerator, config.run_path, users.separate));
  base::log_info(base::format("QEMU {}.{}.{}, {}: {}", machine.qemu.major, machine.qemu.minor,
                              machine.qemu.patch, machine.accelerator.kvm ? "KVM" : "TCG", machine.reason));

  // Bound before VMs are looked at: a VM manager that cannot serve must not start VMs either.
  // Declared before the servers, so that it outlives their last request.
  const SystemClock clock;
  const auto processes = make_processes(config, systemd, users);
  std::unique_ptr<VmManager> manager;
  std::unique_ptr<ExternalApi> external;
  std::unique_ptr<HostApi> host;
  const auto serve_external = [&](const net::Request& request) { return external->handle(request); };
  const auto with_admission = [&](net::ServerOptions options) {
    options.admit = [&](const net::Request& head) { return external->refuse(head); };
    return options;
  };
  net::Server external_server(serve_external, with_admission(external_options()));
  net::Server exposed_server(serve_external, with_admission(exposed_options()));
  net::Server host_server([&](const net::Request& request) { return host->handle(request); },
                          host_api_options());
  // Before there are threads: they inherit the blocked signals.
  external_server.stop_on_signals();
  auto address = config.address;
  DS_CHECK(listen(external_server, address, address.port));
  if (const auto& expose = config.expose) {
    // At boot the address may come up after this service.
    DS_CHECK(exposed_server.listen_tcp(expose.address.ip, expose.address.port,
                                       net::ServerTls{expose.certificate_pem, expose.private_key_pem, {}},
                                       /*early=*/true));
    base::log_info(base::format("API exposed on https://{}", expose.address.to_string()));
  }
  DS_TRY(const auto host_port, host_server.listen_tcp(config.host_api_ip, config.host_api_port));

  manager = std::make_unique<VmManager>(
      config, ManagerSeams{*processes, clock, machine,
                           base::format("http://{}:{}/api", guest_gateway(config.networking.net), host_port),
                           create_qcow2_disk, call_guest_shutdown});
  DS_CHECK(manager->load());
  external = std::make_unique<ExternalApi>(*manager);
  host = std::make_unique<HostApi>(*manager);

  host_server.start();
  if (config.expose) {
    exposed_server.start();
  }
  manager->run_in_background();
  base::log_info(
      base::format("serving on {}, host API on {}:{}", address.to_string(), config.host_api_ip, host_port));
  base::notify_ready(base::format("serving on {}; {}", address.to_string(), users.description));
  auto result = external_server.run(std::chrono::seconds(2));
  base::notify_stopping();
  exposed_server.stop();
  host_server.stop();
  base::log_info("stopped; VMs go on running");
  return result;
}

}  // namespace dstack::vmm
