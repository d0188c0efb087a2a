#include "vmm/share.h"

#include <nlohmann/json.hpp>

namespace dstack::vmm {

using Json = nlohmann::ordered_json;

namespace {

Json text_or_null(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string vm_config_json(const VmConfigFacts& facts) {
  Json out;
  out["os_image_hash"] = facts.os_image_hash;
  out["cpu_count"] = facts.cpu_count;
  out["memory_size"] = facts.memory_size;
  out["pci_hole64_size"] = 0;
  out["hugepages"] = false;
  out["num_gpus"] = 0;
  out["num_nvswitches"] = 0;
  if (facts.num_nics != 1) {
    out["num_nics"] = facts.num_nics;
  }
  if (facts.num_volumes != 0) {
    out["num_verity_volumes"] = facts.num_volumes;
  }
  out["hotplug_off"] = false;
  out["image"] = facts.image;
  out["host_share_mode"] = "vhd";
  if (!facts.ovmf_variant.empty()) {
    out["ovmf_variant"] = facts.ovmf_variant;
  }
  out["spec_version"] = 1;
  return dump(out);
}

std::string sys_config_json(const Config& config, const Manifest& manifest, std::string_view vm_config,
                            std::string_view host_api_url, std::string_view host_api_token) {
  Json out;
  out["kms_urls"] = manifest.kms_urls.empty() ? config.kms_urls : manifest.kms_urls;
  out["gateway_urls"] = manifest.gateway_urls.empty() ? config.gateway_urls : manifest.gateway_urls;
  out["pccs_url"] = text_or_null(config.pccs_url);
  out["collateral_urls"]["pccs"] = text_or_null(config.pccs_url);
  out["nvidia_attestation_proxy_url"] = nullptr;
  out["docker_registry"] = text_or_null(config.docker_registry);
  out["host_api_url"] = host_api_url;
  out["host_api_token"] = host_api_token;
  out["vm_config"] = vm_config;
  return dump(out);
}

std::string tee_simulator_json(std::string_view seed_hex) {
  Json out;
  out["platform"] = "tdx";
  out["mock_attestation_seed"] = seed_hex;
  return dump(out);
}

}  // namespace dstack::vmm
