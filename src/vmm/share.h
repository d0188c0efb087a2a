// What the guest reads about itself: .sys-config.json, its vm_config string, .tee-simulator.json
// (spec/host.md section 4.11). Nothing here is trusted by the guest without evidence.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/config.h"
#include "vmm/manifest.h"

namespace dstack::vmm {

// What the argument vector really gives the guest; a verifier replays measurements with these numbers.
struct VmConfigFacts {
  std::string os_image_hash;  // hex or empty
  std::uint32_t cpu_count = 1;
  std::uint64_t memory_size = 0;  // bytes
  std::string image;
  std::size_t num_nics = 1;
  std::size_t num_volumes = 0;
  std::string ovmf_variant;  // empty = left out
};
// Compact JSON, keys in the specified order.
std::string vm_config_json(const VmConfigFacts& facts);

// `vm_config` goes in as a string; the URLs of the manifest win over those of the configuration.
std::string sys_config_json(const Config& config, const Manifest& manifest, std::string_view vm_config,
                            std::string_view host_api_url, std::string_view host_api_token);

// {"platform":"tdx","mock_attestation_seed":"<hex>"}.
std::string tee_simulator_json(std::string_view seed_hex);

}  // namespace dstack::vmm
