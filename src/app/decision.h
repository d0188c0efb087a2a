// May this boot have its keys? Pure functions over an allow-list and what the KMS verified (spec/host.md
// sections 3.1 and 3.2).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "app/allowlist.h"
#include "base/result.h"

namespace dstack::app {

// What the KMS says about a boot. Missing strings are empty; empty never matches an entry.
struct BootInfo {
  std::string tee_variant;
  std::string mr_aggregated;
  std::string os_image_hash;
  std::string mr_system;
  std::string app_id;
  std::string compose_hash;
  std::string instance_id;
  std::string device_id;
  std::string key_provider_info;
  std::string tcb_status;
  std::vector<std::string> advisory_ids;
  // The strict profile answers HTTP 400 when one of its required fields is missing; this is its name, else
  // empty.
  std::string missing_field;
};

constexpr std::size_t k_max_boot_info = 64 * 1024;

// camelCase JSON. Code::too_large; Code::bad_boot_info for what is not JSON, too deep, or has a key twice;
// Code::boot_info_type for what is no object or has a known field of a wrong type. Unknown fields are
// ignored.
base::Result<BootInfo> parse_boot_info(std::string_view json);

// Why this allow-list makes no decision for `boot` (HTTP 400): the strict profile wants its fields. Empty: it
// makes one.
std::string incomplete(const Allowlist& allowlist, const BootInfo& boot);

struct Decision {
  bool allowed = false;
  std::string reason;          // exact texts of sections 3.1 and 3.2
  std::string gateway_app_id;  // from the allow-list
};

// nullptr stands for an allow-list that is missing or invalid: everything is denied.
Decision decide_app(const Allowlist* allowlist, const BootInfo& boot);
Decision decide_kms(const Allowlist* allowlist, const BootInfo& boot);

}  // namespace dstack::app
