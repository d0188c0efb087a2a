#include <algorithm>

#include "app/allowlist_file.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"
#include "client/deploy.h"
#include "host/ports.h"

namespace dstack::client {
namespace {

using base::Code;

// Ports for "--port 80" are picked from here up: above the services that people know by number, below the end
// of what the VMM allows.
constexpr std::uint16_t k_first_picked_port = 10'000;

void tell(const std::function<void(std::string_view)>& to, const std::string& text) {
  if (to) {
    to(text);
  }
}

base::Result<std::string> check_image(const VmmClient& vmm, const DeployRequest& request) {
  DS_TRY(const auto images, vmm.images());
  std::string names;
  for (const auto& image : images) {
    if (request.image && image.name() == *request.image) {
      return image.name();
    }
    names += (names.empty() ? "" : ", ") + image.name();
  }
  const std::string fix = names.empty() ? "make one with \"dstackup image build\""
                                        : base::format("choose with --image one of: {}", names);
  return base::fail(Code::no_image,
                    request.image ? base::format("the VMM has no guest image \"{}\"", *request.image)
                                  : std::string("no guest image is chosen"),
                    fix);
}

base::Result<> check_name_is_free(const std::vector<::vmm::VmInfo>& vms, const std::string& name) {
  for (const auto& vm : vms) {
    if (vm.name() == name && vm.status() != "removing") {
      return base::fail(
          Code::name_taken, base::format("an app named {} exists already (vm {})", name, vm.id()),
          base::format("choose another name with -n, or remove it with \"dstack remove {}\"", name));
    }
  }
  return {};
}

bool overlap(const std::string& a, const std::string& b) {
  return a == b || a.empty() || b.empty() || a == "0.0.0.0" || b == "0.0.0.0";
}

const ::vmm::VmInfo* holder(const std::vector<::vmm::VmInfo>& vms, const app::PortSpec& port) {
  for (const auto& vm : vms) {
    for (const auto& mapping : vm.configuration().ports()) {
      if (mapping.host_port() == port.host_port && mapping.protocol() == port.protocol &&
          overlap(mapping.host_address(), port.host_address)) {
        return &vm;
      }
    }
  }
  return nullptr;
}

base::Result<> check_port(const VmmClient& vmm, const std::vector<::vmm::VmInfo>& vms,
                          const app::PortSpec& port) {
  const std::string fix = base::format("choose another one, for example --port {}:{}", "auto", port.vm_port);
  if (const auto* vm = holder(vms, port)) {
    return base::fail(
        Code::port_in_use,
        base::format("host port {} is mapped to the app {} (vm {})", port.host_port, vm->name(), vm->id()),
        fix);
  }
  if (!vmm.is_local() || port.protocol != "tcp") {
    return {};
  }
  DS_TRY(const bool free, host::port_is_free(port.host_address, port.host_port));
  if (!free) {
    const auto who = host::who_listens(port.host_port);
    return base::fail(
        Code::port_in_use,
        base::format("host port {} is in use by {}", port.host_port, who.value_or("another program")), fix);
  }
  return {};
}

base::Result<std::vector<app::PortSpec>> settle_ports(const VmmClient& vmm,
                                                      const std::vector<::vmm::VmInfo>& vms,
                                                      std::vector<app::PortSpec> ports) {
  std::vector<std::uint16_t> taken;
  for (const app::PortSpec& port : ports) {
    if (port.host_port != 0) {
      DS_CHECK(check_port(vmm, vms, port));
      taken.push_back(port.host_port);
    }
  }
  for (const auto& vm : vms) {
    for (const auto& mapping : vm.configuration().ports()) {
      taken.push_back(static_cast<std::uint16_t>(mapping.host_port()));
    }
  }
  for (app::PortSpec& port : ports) {
    if (port.host_port == 0) {
      const bool test = vmm.is_local() && port.protocol == "tcp";
      const auto is_free = [&](const std::string&, std::uint16_t candidate) -> base::Result<bool> {
        return test ? host::port_is_free(port.host_address, candidate) : base::Result<bool>(true);
      };
      DS_TRY(port.host_port, host::pick_host_port(k_first_picked_port, taken, is_free));
      taken.push_back(port.host_port);
    }
  }
  return ports;
}

::vmm::VmConfiguration configuration(const DeployRequest& request, const DeployPlan& plan,
                                     const std::string& image, const std::vector<app::PortSpec>& ports) {
  ::vmm::VmConfiguration out;
  out.set_name(request.name);
  out.set_image(image);
  out.set_compose_file(plan.app_compose);
  out.set_vcpu(request.vcpu);
  out.set_memory(request.memory);
  out.set_disk_size(request.disk);
  out.set_app_id(plan.app_id);
  for (const app::PortSpec& port : ports) {
    auto& mapping = *out.add_ports();
    mapping.set_protocol(port.protocol);
    mapping.set_host_port(port.host_port);
    mapping.set_vm_port(port.vm_port);
    mapping.set_host_address(port.host_address);
  }
  return out;
}

// The VMM's answer is only compared: what is granted is what this program computed.
base::Result<> check_hash(const VmmClient& vmm, const ::vmm::VmConfiguration& configuration,
                          const DeployPlan& plan) {
  DS_TRY(const std::string theirs, vmm.compose_hash(configuration));
  if (base::normalize_hex(theirs) != plan.compose_hash) {
    return base::fail(Code::hash_mismatch,
                      base::format("the VMM computes the compose hash {}, but it is {}",
                                   base::escape_control(theirs.substr(0, 80)), plan.compose_hash),
                      "do not trust this VMM: it would start something else than what you deploy");
  }
  return {};
}

base::Result<bool> grant(const DeployRequest& request, const DeployPlan& plan,
                         const DeployObserver& observer) {
  if (!request.kms) {
    return false;
  }
  if (!request.allowlist) {
    tell(observer.warning,
         base::format(
             "no allow-list is known here: the KMS gives no keys until app {} with compose hash {} is "
             "registered; name the file with --allowlist",
             plan.app_id, plan.compose_hash));
    return false;
  }
  DS_TRY(const bool added,
         app::AllowlistFile(*request.allowlist).register_app(plan.app_id, plan.compose_hash));
  tell(observer.step,
       base::format("{} in {}", added ? "registered" : "already registered", request.allowlist->string()));
  return added;
}

// A lost answer does not mean that nothing was made.
std::optional<std::string> find_created(const VmmClient& vmm, const DeployRequest& request,
                                        const DeployPlan& plan) {
  const auto vms = vmm.vms(/*brief=*/true);
  if (vms) {
    for (const auto& vm : *vms) {
      if (vm.name() == request.name && vm.app_id() == plan.app_id && vm.status() != "removing") {
        return vm.id();
      }
    }
  }
  return std::nullopt;
}

bool answer_was_lost(Code code) {
  return code == Code::net || code == Code::timeout || code == Code::http;
}

}  // namespace

base::Result<Deployed> create_app(const VmmClient& vmm, const DeployRequest& request, const DeployPlan& plan,
                                  const DeployObserver& observer) {
  Deployed deployed;
  DS_TRY(const std::string image, check_image(vmm, request));
  DS_TRY(const auto vms, vmm.vms());
  DS_CHECK(check_name_is_free(vms, request.name));
  DS_TRY(deployed.ports, settle_ports(vmm, vms, request.ports));
  const auto config = configuration(request, plan, image, deployed.ports);
  DS_CHECK(check_hash(vmm, config, plan));
  DS_TRY(deployed.granted, grant(request, plan, observer));

  auto id = vmm.create(config);
  if (!id && answer_was_lost(id.error().code)) {
    if (auto created = find_created(vmm, request, plan)) {
      id = std::move(*created);
    }
  }
  if (!id) {
    base::Error error = std::move(id).error();
    if (deployed.granted) {
      const auto revoked = app::AllowlistFile(*request.allowlist).revoke_hash(plan.app_id, plan.compose_hash);
      if (!revoked) {
        tell(observer.warning, base::format("the allow-list entry of app {} could not be taken back: {}",
                                            plan.app_id, revoked.error().what()));
      }
    }
    if (error.code != Code::vmm_unreachable && error.code != Code::unauthorized) {
      error = std::move(error).wrap(base::format("the VMM did not create {}", request.name));
      error.code = error.code == Code::rpc ? Code::deploy_refused : error.code;
    }
    return base::fail(std::move(error));
  }
  deployed.vm_id = std::move(*id);
  tell(observer.step, base::format("vm {} created", deployed.vm_id));
  return deployed;
}

}  // namespace dstack::client
