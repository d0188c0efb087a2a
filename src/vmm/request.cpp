#include "vmm/request.h"

#include <arpa/inet.h>

#include <algorithm>
#include <limits>

#include "app/app_compose.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/hash.h"
#include "host/image.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;

namespace {

constexpr std::size_t k_max_ports = 64;
constexpr std::size_t k_max_volumes = 16;
constexpr std::size_t k_max_urls = 16;
constexpr std::size_t k_max_url = 2048;
constexpr std::size_t k_max_env = 256 * 1024;
constexpr std::uint32_t k_min_memory_mb = 64;
constexpr std::uint32_t k_max_disk_gb = 1024 * 1024;

Result<PortForward> plan_port(const PortMappingPolicy& policy, const ::vmm::PortMapping& request) {
  constexpr std::uint32_t k_last = std::numeric_limits<std::uint16_t>::max();
  if (request.host_port() == 0 || request.host_port() > k_last || request.vm_port() == 0 ||
      request.vm_port() > k_last) {
    return fail(Code::vm_request, base::format("port mapping {}:{} is not within 1 to 65535",
                                               request.host_port(), request.vm_port()));
  }
  PortForward port;
  port.protocol = request.protocol();
  if (port.protocol != "tcp" && port.protocol != "udp") {
    return fail(Code::vm_request,
                base::format("port protocol `{}` is neither tcp nor udp", request.protocol().substr(0, 16)));
  }
  port.host_port = static_cast<std::uint16_t>(request.host_port());
  port.vm_port = static_cast<std::uint16_t>(request.vm_port());
  port.address = request.host_address().empty() ? policy.address : request.host_address();
  in6_addr buffer;
  if (::inet_pton(AF_INET, port.address.c_str(), &buffer) != 1 &&
      ::inet_pton(AF_INET6, port.address.c_str(), &buffer) != 1) {
    return fail(Code::vm_request, base::format("host address `{}` of port {} is not an IP address",
                                               port.address.substr(0, 64), port.host_port));
  }
  const bool allowed = std::any_of(policy.ranges.begin(), policy.ranges.end(), [&](const PortRange& range) {
    return range.protocol == port.protocol && port.host_port >= range.from && port.host_port <= range.to;
  });
  if (!allowed) {
    std::string ranges;
    for (const auto& range : policy.ranges) {
      ranges += base::format("{}{} {}-{}", ranges.empty() ? "" : ", ", range.protocol, range.from, range.to);
    }
    return fail(Code::vm_port_denied,
                base::format("Port mapping is not allowed for {}:{}", port.protocol, port.host_port),
                base::format("choose a host port in {}, or widen [cvm.port_mapping] range", ranges));
  }
  return port;
}

Result<std::vector<PortForward>> plan_ports(const PortMappingPolicy& policy,
                                            const ::vmm::VmConfiguration& request) {
  std::vector<PortForward> ports;
  if (request.ports_size() > 0 && !policy.enabled) {
    return fail(Code::vm_port_denied, "Port mapping is disabled",
                "enable [cvm.port_mapping] in the VMM's configuration");
  }
  if (static_cast<std::size_t>(request.ports_size()) > k_max_ports) {
    return fail(Code::vm_request, base::format("more than {} port mappings", k_max_ports));
  }
  for (const auto& mapping : request.ports()) {
    DS_TRY(auto port, plan_port(policy, mapping));
    for (const auto& other : ports) {
      if (ports_overlap(port, other)) {
        return fail(Code::vm_request, base::format("duplicate host port mapping: {} {}:{}", port.protocol,
                                                   port.address, port.host_port));
      }
    }
    ports.push_back(std::move(port));
  }
  return ports;
}

Result<std::string> resolve_volume(const Config& config, const app::VerityVolume& volume) {
  if (config.volumes_dir.empty()) {
    return fail(Code::vm_request,
                base::format("volume {} cannot be attached: no volumes_dir is configured", volume.source),
                "set [cvm] volumes_dir in the VMM's configuration");
  }
  const auto& name = volume.source;
  if (name.empty() || name == "." || name == ".." || name.find_first_of(",=/\\") != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return fail(Code::vm_request, base::format("volume source `{}` is not a file name", name));
  }
  std::error_code error;
  const auto root = fs::canonical(config.volumes_dir, error);
  const auto path = error ? fs::path() : fs::canonical(root / name, error);
  if (error || !fs::is_regular_file(path, error) || error) {
    return fail(Code::vm_request,
                base::format("there is no volume {} in {}", name, config.volumes_dir.native()),
                "add it with `dstackup volume add`");
  }
  if (path.parent_path() != root && !path.native().starts_with(root.native() + "/")) {
    return fail(Code::vm_request, base::format("volume {} leads out of {}", name, root.native()));
  }
  return path.native();
}

Result<std::vector<std::string>> plan_volumes(const Config& config, const app::AppCompose& compose) {
  if (compose.verity_volumes.size() > k_max_volumes) {
    return fail(Code::vm_request, base::format("more than {} volumes", k_max_volumes));
  }
  std::vector<std::string> paths;
  std::vector<std::string> roots;
  std::vector<std::string> targets;
  for (const auto& volume : compose.verity_volumes) {
    if (std::find(targets.begin(), targets.end(), volume.target) != targets.end()) {
      return fail(Code::vm_request, base::format("two volumes have the target {}", volume.target));
    }
    targets.push_back(volume.target);
    if (std::find(roots.begin(), roots.end(), volume.verity_root) != roots.end()) {
      continue;
    }
    roots.push_back(volume.verity_root);
    DS_TRY(auto path, resolve_volume(config, volume));
    paths.push_back(std::move(path));
  }
  return paths;
}

Result<> check_resources(const Config& config, const ::vmm::VmConfiguration& request) {
  if (request.vcpu() > config.max_vcpu) {
    return fail(Code::vm_request, base::format("{} vCPUs are more than the {} that this VMM gives to a VM",
                                               request.vcpu(), config.max_vcpu));
  }
  if (request.memory() < k_min_memory_mb || request.memory() > config.max_memory_mb) {
    return fail(Code::vm_request, base::format("{} MiB of memory is not within {} to {} MiB",
                                               request.memory(), k_min_memory_mb, config.max_memory_mb));
  }
  if (request.disk_size() < 1 || request.disk_size() > k_max_disk_gb) {
    return fail(Code::vm_request, base::format("a disk of {} GiB is not within 1 to {} GiB",
                                               request.disk_size(), k_max_disk_gb));
  }
  return {};
}

// What the message can say and this version cannot do is refused, never ignored.
Result<> check_supported(const ::vmm::VmConfiguration& request) {
  const auto unsupported = [](std::string_view what) {
    return fail(Code::unsupported, base::format("{} is not supported by this version", what));
  };
  if (request.hugepages()) {
    return unsupported("hugepages");
  }
  if (request.pin_numa()) {
    return unsupported("pin_numa");
  }
  if (request.has_gpus() && (request.gpus().gpus_size() > 0 || request.gpus().attach_mode() == "all")) {
    return unsupported("attaching GPUs");
  }
  if (request.no_tee()) {
    return unsupported("no_tee");
  }
  if (request.has_simulated_tee() && request.simulated_tee() != "tdx") {
    return fail(Code::vm_request,
                base::format("unsupported TEE variant: {}", request.simulated_tee().substr(0, 64)),
                "leave simulated_tee out or set it to tdx");
  }
  const auto user_only = [](const ::vmm::NetworkingConfig& network) {
    return (network.mode().empty() || network.mode() == "user") && network.bridge_name().empty();
  };
  if (request.networks_size() > 1 ||
      !std::all_of(request.networks().begin(), request.networks().end(), user_only) ||
      (request.has_networking() && !user_only(request.networking()))) {
    return unsupported("another network than one of mode user");
  }
  return {};
}

Result<std::vector<std::string>> plan_urls(const google::protobuf::RepeatedPtrField<std::string>& urls) {
  if (static_cast<std::size_t>(urls.size()) > k_max_urls) {
    return fail(Code::vm_request, base::format("more than {} URLs", k_max_urls));
  }
  for (const auto& url : urls) {
    if (url.size() > k_max_url || !(url.starts_with("https://") || url.starts_with("http://"))) {
      return fail(Code::vm_request, base::format("`{}` is not an http or https URL", url.substr(0, 80)));
    }
  }
  return std::vector<std::string>(urls.begin(), urls.end());
}

}  // namespace

Result<> check_vm_name(std::string_view name) {
  const bool good = name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                             std::string_view("-_. @~!$^()").find(c) != std::string_view::npos;
                    });
  if (!good) {
    return fail(Code::vm_request, base::format("Invalid name: {}", name.substr(0, 128)),
                "use at most 128 letters, digits, spaces and -_.@~!$^()");
  }
  return {};
}

Result<PlannedVm> plan_vm(const Config& config, const ::vmm::VmConfiguration& request) {
  DS_CHECK(check_vm_name(request.name()));
  PlannedVm plan;
  auto& manifest = plan.manifest;
  DS_TRY(manifest.ports, plan_ports(config.port_mapping, request));
  DS_CHECK(check_supported(request));
  DS_CHECK(check_resources(config, request));
  DS_TRY(const auto compose, app::parse_app_compose(request.compose_file()));
  if (compose.key_provider == app::KeyProvider::tpm) {
    return fail(Code::unsupported, "key provider tpm is not supported by this version");
  }
  DS_TRY(manifest.volumes, plan_volumes(config, compose));
  DS_TRY(manifest.kms_urls, plan_urls(request.kms_urls()));
  DS_TRY(manifest.gateway_urls, plan_urls(request.gateway_urls()));
  DS_CHECK(host::check_image_name(request.image()));
  if (request.encrypted_env().size() > k_max_env || request.user_config().size() > app::k_max_app_compose) {
    return fail(Code::vm_request, "encrypted_env or user_config is larger than the guest accepts");
  }
  manifest.name = request.name();
  manifest.image = request.image();
  manifest.vcpu = std::max<std::uint32_t>(request.vcpu(), 1);
  manifest.memory = request.memory();
  manifest.disk_size = request.disk_size();
  manifest.simulated_tee = "tdx";
  manifest.no_tee = true;
  ManifestNetwork network;
  network.net = config.networking.net;
  network.dhcp_start = config.networking.dhcp_start;
  network.mac_prefix = config.networking.mac_prefix;
  network.restrict_guest = config.networking.restrict_guests;
  manifest.networks.push_back(std::move(network));

  const auto hash = app::compose_hash(request.compose_file());
  manifest.app_id = app::app_id_from_hash(hash);
  if (request.has_app_id() && !request.app_id().empty()) {
    const auto bytes = base::from_hex(base::normalize_hex(request.app_id()));
    if (!bytes || bytes->size() != 20) {
      return fail(Code::vm_request,
                  base::format("app_id `{}` is not 40 hex digits", request.app_id().substr(0, 64)));
    }
    manifest.app_id = base::to_hex(*bytes);
    plan.app_id_from_request = manifest.app_id;
  }
  plan.compose_file = request.compose_file();
  plan.user_config = request.user_config();
  plan.encrypted_env = request.encrypted_env();
  return plan;
}

}  // namespace dstack::vmm
