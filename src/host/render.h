// Configuration files as text, pure functions of values (spec/host.md sections 1.7 and 1.8).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "app/app_compose.h"
#include "host/layout.h"
#include "host/service_manager.h"

namespace dstack::host {

// A TOML basic string with quotes; every control character, quote and backslash is escaped.
std::string toml_string(std::string_view text);

struct VmmConfigValues {
  Layout layout;
  std::string platform = "simulated";
  std::string qemu_path;
  std::uint16_t dashboard_port = 9080;
  std::uint16_t host_api_port = 10000;
  std::uint32_t cid_start = 1000;
  std::uint16_t kms_port = 0;        // 0 = no KMS
  std::string cgroup_root;           // "" = VMs get no cgroups from the VMM
  std::string expose;                // IP address on which the API is served over TLS, "" = none
  std::string key_provider_address;  // "" = none
  std::uint16_t key_provider_port = 0;
};
std::string render_vmm_toml(const VmmConfigValues& values);

struct KmsConfigValues {
  std::uint16_t auth_port = 8001;
  bool simulated = true;  // trusts the simulated root that make_kms_manifest() puts beside it
  bool snp = false;
};
std::string render_kms_toml(const KmsConfigValues& values);

struct KmsAppValues {
  std::string image;  // container image reference, see check_image_reference()
  std::string kms_toml;
  std::string simulated_root_pem;   // "" = none
  bool local_key_provider = false;  // TDX: its disk's key comes from the SGX key provider
  std::vector<app::VerityVolume> volumes;
};
// Printable ASCII without white space and quotes, not empty, at most 255. Code::invalid_argument.
base::Result<> check_image_reference(std::string_view reference);
// The KMS is an ordinary app: its configuration is inside its app-compose, so it is measured.
app::KmsManifest make_kms_manifest(const KmsAppValues& values);

// Where guests reach the host, and the name in the KMS's certificate.
inline constexpr const char* k_host_from_guest = "10.0.2.2";
std::string kms_url_for_guests(std::uint16_t kms_port);

ServiceSpec auth_service(const Layout& layout, const std::string& unit, const std::filesystem::path& program,
                         std::uint16_t port);
ServiceSpec vmm_service(const Layout& layout, const std::string& unit, const std::string& auth_unit,
                        const std::filesystem::path& program);

}  // namespace dstack::host
