// What binds a VM's configuration to its hardware report: TDX mrconfigid, SNP host data (spec/host.md
// section 4.11).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "crypto/hash.h"

namespace dstack::vmm {

using MrConfigId = std::array<std::uint8_t, 48>;

// 01 ‖ compose hash ‖ zeros.
MrConfigId mr_config_v1(const crypto::Hash256& compose_hash);

struct MrConfigDocument {
  base::Bytes app_id;
  base::Bytes compose_hash;
  std::optional<base::Bytes> gpu_policy_hash;                  // only with GPUs
  std::optional<std::vector<base::Bytes>> init_script_hashes;  // only with manifest_version 3 and later
  base::Bytes instance_id;
  std::string key_provider;  // "none", "local", "kms", "tpm"
  base::Bytes key_provider_id;
};
// The canonical JSON (RFC 8785) whose exact bytes are hashed.
std::string mr_config_document(const MrConfigDocument& document);
// sha256("dstack-mr-config-v3:" ‖ 00 ‖ document); the SNP host data.
crypto::Hash256 mr_config_v3_hash(std::string_view document);
// 03 ‖ that hash ‖ zeros.
MrConfigId mr_config_v3(std::string_view document);

// sha256(seed ‖ app id)[0..20].
base::Bytes instance_id(base::ByteView seed, base::ByteView app_id);

}  // namespace dstack::vmm
