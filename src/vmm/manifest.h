// vm-manifest.json: what a VM is made of (spec/host.md section 4.11).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "vmm/qemu_args.h"

namespace dstack::vmm {

struct ManifestNetwork {
  std::string mode = "user";
  std::string bridge;
  std::string mac_prefix;
  std::string net;
  std::string dhcp_start;
  bool restrict_guest = false;
  std::string netdev;
  bool operator==(const ManifestNetwork&) const = default;
};

struct Manifest {
  std::string id;
  std::string name;
  std::string app_id;
  std::string image;
  std::uint32_t vcpu = 1;
  std::uint32_t memory = 1024;   // MiB
  std::uint32_t disk_size = 10;  // GiB
  std::vector<PortForward> ports;
  std::uint64_t created_at_ms = 0;
  bool hugepages = false;
  bool pin_numa = false;
  bool no_tee = false;
  bool swtpm = false;
  bool has_gpus = false;  // read only: GPUs are not attached by this version
  std::vector<std::string> kms_urls;
  std::vector<std::string> gateway_urls;
  std::optional<std::string> simulated_tee;
  std::vector<ManifestNetwork> networks;
  std::vector<std::string> volumes;  // absolute host paths
  bool operator==(const Manifest&) const = default;
};

constexpr std::size_t k_max_manifest = 1024 * 1024;

std::string manifest_to_json(const Manifest& manifest);
// Keys that older writers did not know take their defaults; unknown keys are ignored. Code::vm_record names
// the key.
base::Result<Manifest> parse_manifest(std::string_view json);

// 1 to 64 characters out of [A-Za-z0-9_-].
bool valid_vm_id(std::string_view id);
// A random UUID, version 4.
base::Result<std::string> new_vm_id();

}  // namespace dstack::vmm
