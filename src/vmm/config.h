// vmm.toml (spec/host.md sections 1.7 and 4.9), as far as this version uses it.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::vmm {

namespace fs = std::filesystem;

enum class Platform { simulated, tdx, amd_sev_snp };
// "simulated", "tdx", "amd-sev-snp".
std::string_view to_string(Platform platform);

// Which accelerator QEMU runs with; automatic means a probe decides.
enum class AcceleratorChoice { automatic, kvm, tcg };

struct ListenAddress {
  std::string ip;  // tcp when not empty
  std::uint16_t port = 0;
  std::string unix_path;
  bool loopback() const;
  std::string to_string() const;
};
// "tcp:IP[:PORT]", "unix:PATH" or "IP[:PORT]"; IPv6 in brackets; port 8000 when absent. Code::vmm_config.
base::Result<ListenAddress> parse_listen_address(std::string_view text);

struct PortRange {
  std::string protocol = "tcp";
  std::uint16_t from = 1;
  std::uint16_t to = 20000;
};

struct PortMappingPolicy {
  bool enabled = false;
  std::string address = "127.0.0.1";
  std::vector<PortRange> ranges{PortRange{}};
};

struct AutoRestartPolicy {
  bool enabled = true;
  std::chrono::seconds interval{1};  // between two looks at all VMs
  unsigned max_retries = 5;
  std::chrono::seconds initial_backoff{2};
  std::chrono::seconds max_backoff{300};
  std::chrono::seconds reset_window{300};
};

struct LogPolicy {
  std::uint64_t max_bytes = 4 * 1024 * 1024;  // 0 = no limit
  unsigned max_backups = 3;
  std::chrono::seconds check_interval{5};
};

struct NetworkDefaults {
  std::string net = "10.0.2.0/24";
  std::string dhcp_start = "10.0.2.10";
  bool restrict_guests = false;
  std::string mac_prefix;  // 0 to 3 bytes, "02:ab:cd"
};

struct AuthConfig {
  bool enabled = false;
  std::vector<std::string> tokens;  // from `tokens` and `token_file`; never empty strings
};

// The API on a network address, over TLS.
struct ExposeConfig {
  ListenAddress address;  // ip "" = not exposed
  std::string certificate_pem;
  std::string private_key_pem;
  explicit operator bool() const { return !address.ip.empty(); }
};

struct Config {
  ListenAddress address;
  ExposeConfig expose;
  std::string node_name;
  std::string log_level = "info";
  std::size_t event_buffer_size = 20;
  fs::path run_path;
  fs::path image_path;

  Platform platform = Platform::simulated;
  std::string qemu_path;
  AcceleratorChoice accelerator = AcceleratorChoice::automatic;
  std::vector<std::string> kms_urls;
  std::vector<std::string> gateway_urls;
  std::string pccs_url;
  std::string docker_registry;
  fs::path volumes_dir;  // empty = volumes cannot be attached
  fs::path cgroup_root;  // cgroup v2 directory under which each QEMU gets its own; empty = none
  std::uint32_t max_vcpu = 20;
  std::uint32_t max_memory_mb = 100'000;
  NetworkDefaults networking;
  PortMappingPolicy port_mapping;
  AutoRestartPolicy auto_restart;
  LogPolicy log;
  std::string mock_attestation_seed;  // 64 hex digits; what simulated guests get

  AuthConfig auth;
  std::string host_api_ip = "127.0.0.1";
  std::uint16_t host_api_port = 10000;

  // Keys of the file that mean nothing to this version, for a warning.
  std::vector<std::string> unknown_keys;
};

// `name` stands in messages; relative paths in the text are taken from `directory`. Reads the secret files
// that the text names. Code::vmm_config names key and value.
base::Result<Config> parse_config(std::string_view text, std::string_view name, const fs::path& directory);
base::Result<Config> load_config(const fs::path& path);

// What a server must not start with: a network address without TLS and authentication, a platform whose VMs
// this version cannot launch, simulated VMs without a seed.
base::Result<> check_servable(const Config& config);

}  // namespace dstack::vmm
