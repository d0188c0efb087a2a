// dstackup-state.json: what is installed here (spec/host.md section 1.7). Read by dstackup and dstack.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "host/layout.h"

namespace dstack::host {

struct InstallState {
  // Upstream's keys, in its order.
  std::string prefix;                         // the state directory (a historical name)
  std::optional<std::string> install_prefix;  // --prefix as given
  std::string config_dir, state_dir, cache_dir, run_dir;
  std::string allowlist_path;
  std::string platform;           // "tdx", "amd-sev-snp", "simulated"
  std::string client_url;         // "http://127.0.0.1:<port>"
  std::string client_token_path;  // file with the VMM's bearer token
  std::uint16_t auth_port = 0;
  std::string vmm_unit, auth_unit;       // without ".service"
  std::optional<std::string> kms_vm_id;  // the KMS CVM
  std::string kms_url;                   // as guests see it, "https://10.0.2.2:<port>", or ""
  std::optional<std::string> image;
  std::optional<std::string> kp_own_project;

  // Ours.
  std::string kms_ca_cert;    // path of the pinned KMS root CA (PEM), "" before the KMS was ready once
  std::string kms_ca_sha256;  // of its DER, lower hex
  std::string os_image_hash;  // the pin, lower hex; "" = the image has no digest
  std::string journal;        // path of the intent journal
  std::string instance;       // suffix of the unit names, "" = none
  std::string programs_dir;   // of the installation's own dstack-vmm and dstack-auth, "" = it has none
  std::string qemu_path;
  std::string service_manager;  // "systemd" or "supervisor"
  std::string kms_image;        // container image reference the KMS runs from
  std::uint16_t host_api_port = 0;
  std::uint32_t cid_start = 0;
  std::uint16_t kms_port = 0;  // host side; 0 = --no-kms
  std::string expose;          // address on which the VMM's API is served over TLS, "" = none
  std::string tls_cert;        // path of its certificate
  std::string image_path;      // --image-path, "" = below the state directory
  std::string key_provider;    // ADDRESS:PORT of the SGX key provider, "" = none
  bool skip_managed_binaries = false;
  // --vmm-bin, --auth-bin, --supervisor-bin: run as they are; "" = the installation's own.
  std::string vmm_bin, auth_bin, supervisor_bin;
  std::string vmm_bin_seen, auth_bin_seen;      // program_mark() of what was started
  std::string bin_dir, libexec_dir, share_dir;  // of the flags, "" = where the layout has them
  std::string version;                          // of the installation's dstack-vmm

  // What the services run.
  fs::path vmm_program() const { return vmm_bin.empty() ? programs_dir + "/dstack-vmm" : vmm_bin; }
  fs::path auth_program() const { return auth_bin.empty() ? programs_dir + "/dstack-auth" : auth_bin; }

  // "https://192.0.2.7:9080", "" when the API is not exposed.
  std::string exposed_url() const;
  std::uint16_t dashboard_port() const;  // out of client_url, 0 if it has none
};

// A unit name as install gives them: the service's, or "<service>-<instance>". Without `service`: either
// one's.
bool is_own_unit(std::string_view name, std::string_view service);
bool is_own_unit(std::string_view name);
// A docker compose project as install names them: "dstack-kp-<port>".
bool is_own_project(std::string_view name);

// The highest "state_version" this program understands.
inline constexpr int k_state_version = 1;

// nullopt when there is no file. Code::state_corrupt for anything unreadable or that install would not have
// written, such as a key twice or the unit name "sshd", Code::state_newer for a file of
// a later version; both name the file and the way out, so that "broken" is never mistaken for "not
// installed".
base::Result<std::optional<InstallState>> load_state(const std::filesystem::path& path);
base::Result<InstallState> parse_state(std::string_view text, const std::string& name);
// load_state() for callers that need an installation: Code::not_installed when there is none.
base::Result<InstallState> require_state(const std::filesystem::path& path);
// `layout` with the directories that the installation's flags chose.
Layout installed_layout(Layout layout, const InstallState& state);

std::string to_json_text(const InstallState& state);
// Atomic and durable.
base::Result<> save_state(const std::filesystem::path& path, const InstallState& state);

}  // namespace dstack::host
