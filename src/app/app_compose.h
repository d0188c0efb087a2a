// app-compose: the manifest whose sha256 identifies an app (spec/host.md sections 2.4 and 4.11).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::app {

enum class KeyProvider { none, kms, local, tpm };
// "none", "kms", "local", "tpm".
std::string_view to_string(KeyProvider provider);

// A read-only dm-verity volume named by the manifest (section 2.6).
struct VerityVolume {
  std::string source;       // file name under the host's volumes directory
  std::string verity_root;  // 64 lower-case hex digits
  std::string target;       // absolute path in the guest
  bool operator==(const VerityVolume&) const = default;
};

// What `dstack deploy` puts into a manifest; every other key has the fixed value of section 2.4.
struct DeployManifest {
  std::string name = "app";
  std::string runner = "docker-compose";  // or "nerdctl-compose", which makes manifest_version "3"
  std::string docker_compose_file;        // text, kept verbatim
  bool kms_enabled = true;
  std::string key_provider_id;             // hex; the one KMS whose keys the app takes; left out when empty
  std::optional<std::string> snapshotter;  // "overlayfs" or "stargz"; only with nerdctl-compose
  std::vector<VerityVolume> verity_volumes;
};

// What `dstackup install` puts into the KMS's manifest (section 1.8); verity_volumes are appended when there
// are any.
struct KmsManifest {
  std::string name = "dstack-kms";
  std::string docker_compose_file;
  std::string init_script;  // left out when empty
  bool local_key_provider_enabled = false;
  std::vector<VerityVolume> verity_volumes;
};

// The manifest's bytes: keys in insertion order, 2-space indent, no trailing newline. They are made once and
// then only copied. Code::bad_app_compose when a text is not UTF-8.
base::Result<std::string> build_app_compose(const DeployManifest& manifest);
base::Result<std::string> build_app_compose(const KmsManifest& manifest);

// sha256 of the bytes, 64 lower-case hex digits.
std::string compose_hash(std::string_view app_compose);
// The default app id: the first 40 digits of a compose hash.
std::string app_id_from_hash(std::string_view compose_hash_hex);

// The fields of a manifest that the programs use. Defaults are those of an absent key.
struct AppCompose {
  std::uint32_t manifest_version = 0;
  std::string name;
  std::string runner;
  std::optional<std::string> docker_compose_file;
  std::vector<std::string> init_script;  // 0 to 5 scripts
  std::optional<std::string> pre_launch_script;
  bool kms_enabled = false;
  bool gateway_enabled = false;
  bool local_key_provider_enabled = false;
  KeyProvider key_provider = KeyProvider::none;  // resolved
  std::string key_provider_id;                   // lower-case hex or empty
  bool public_logs = false;
  bool public_sysinfo = false;
  bool public_tcbinfo = true;
  bool no_instance_id = false;
  bool secure_time = true;
  std::vector<std::string> allowed_envs;
  std::optional<std::string> storage_fs;
  std::optional<std::string> snapshotter;
  std::uint64_t swap_size = 0;          // bytes
  std::uint32_t event_log_version = 1;  // 1 or 2
  std::vector<VerityVolume> verity_volumes;
};

constexpr std::size_t k_max_app_compose = 50 * 1024 * 1024;

// Strict: JSON with no key twice, at most 64 levels deep, fields of the right type. Unknown keys are ignored
// except inside `requirements`. Code::bad_app_compose naming the key.
base::Result<AppCompose> parse_app_compose(std::string_view bytes);

}  // namespace dstack::app
