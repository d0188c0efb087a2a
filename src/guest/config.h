// What the files of the host share say (spec/guest-kms.md sections 5.1 to 5.3, 3.10).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "app/app_compose.h"
#include "base/bytes.h"
#include "base/result.h"

namespace dstack::guest {

// `.sys-config.json`; not measured, so nothing here is trusted with more than availability.
struct SysConfig {
  std::vector<std::string> kms_urls;
  std::string host_api_url;    // empty = no host API
  std::string host_api_token;  // of this VM, for both directions
  std::string vm_config;       // JSON text, required
};
// Unknown keys are ignored; a key twice, a wrong type, deep nesting or more than 16 URLs are
// Code::host_share.
base::Result<SysConfig> parse_sys_config(std::string_view text);

// `.instance_info`; every field may be missing.
struct InstanceInfo {
  std::string instance_id_seed;  // lower hex, 40 digits or empty
  std::string instance_id;
  std::string app_id;
};
// Code::host_share when a value is not 40 hex digits (an "0x" prefix is refused).
base::Result<InstanceInfo> parse_instance_info(std::string_view text);
// Compact: instance_id_seed, instance_id, app_id.
std::string to_json(const InstanceInfo& info);

// `.tee-simulator.json`: the seed of the simulated platform, 32 bytes. Platforms other than "tdx" are
// refused.
base::Result<base::Bytes> parse_simulator_seed(std::string_view text);

// Who this boot is.
struct BootIdentity {
  base::Bytes app_id;            // 20 bytes
  base::Bytes compose_hash;      // 32 bytes
  base::Bytes instance_id;       // 20 bytes, or empty
  base::Bytes instance_id_seed;  // 20 bytes
};
// app_id from `.instance_info`, else the head of the compose hash. The seed comes from `.instance_info`
// unless the key provider is none, else it is random. instance_id = SHA256(seed ‖ app_id)[0..20], empty when
// the app wants none.
base::Result<BootIdentity> make_identity(std::string_view app_compose, const app::AppCompose& compose,
                                         const InstanceInfo& info);

// Refuses an app-compose that asks for what this version does not do, naming it: other runners, gateway, key
// providers local and tpm, pre-launch scripts, encrypted environment, ZFS, swap, event log version 2, secure
// time (when it says true; the key's absence is let pass), requirements on the platform. `has_encrypted_env`:
// the host handed over a non-empty `.encrypted-env`.
base::Result<> check_supported(std::string_view app_compose, const app::AppCompose& compose,
                               bool has_encrypted_env);

}  // namespace dstack::guest
