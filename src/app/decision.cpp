#include "app/decision.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/plain_json.h"
#include "app/strict_json.h"
#include "base/bytes.h"
#include "base/format.h"

namespace dstack::app {
namespace {

using base::Code;
using Json = nlohmann::ordered_json;

// A value that is missing, blank or "0x" matches nothing, whatever the list holds.
bool holds(const HexSet& list, const std::string& value) {
  std::string storage;
  const auto normal = base::normalize_hex(value, storage);
  return !normal.empty() && list.contains(normal);
}

Decision deny(const Allowlist* list, std::string_view reason) {
  return {false, std::string(reason), list == nullptr ? std::string() : list->gateway_app_id};
}

Decision allow(const Allowlist& list) {
  return {true, list.strict ? "" : "ok", list.gateway_app_id};
}

bool device_allowed(bool any, const HexSet& devices, const std::string& device) {
  return any || devices.empty() || holds(devices, device);
}
// The stricter sibling has no "empty list means any".
bool device_allowed_strict(bool any, const HexSet& devices, const std::string& device) {
  return any || holds(devices, device);
}

// What the strict profile asks of every boot; the text of the refusal, or empty.
std::string_view strict_refusal(const Allowlist& list, const BootInfo& boot) {
  if (!list.allowed_tcb_statuses.contains(boot.tcb_status)) {
    return "TCB status is not allowed";
  }
  const bool advisories_known =
      std::all_of(boot.advisory_ids.begin(), boot.advisory_ids.end(),
                  [&](const std::string& id) { return list.allowed_advisory_ids.contains(id); });
  if (!advisories_known) {
    return "advisory ID is not allowed";
  }
  if (!holds(list.os_images, boot.os_image_hash)) {
    return "OS image is not allowed";
  }
  return {};
}

bool image_allowed(const Allowlist& list, const BootInfo& boot) {
  return list.os_images.empty() ? list.allow_any_os_image : holds(list.os_images, boot.os_image_hash);
}

const AllowlistApp* find_app(const Allowlist& list, const std::string& app_id) {
  std::string storage;
  const auto id = base::normalize_hex(app_id, storage);
  if (id.empty()) {
    return nullptr;
  }
  const auto found = list.apps.find(id);
  return found == list.apps.end() ? nullptr : &found->second;
}

constexpr int k_max_boot_depth = 16;

struct BootField {
  std::string_view key;
  std::string BootInfo::* target;
};
// The strict profile requires the first ones.
constexpr std::size_t k_required = 6;
constexpr BootField k_boot_fields[] = {{"mrAggregated", &BootInfo::mr_aggregated},
                                       {"osImageHash", &BootInfo::os_image_hash},
                                       {"appId", &BootInfo::app_id},
                                       {"composeHash", &BootInfo::compose_hash},
                                       {"instanceId", &BootInfo::instance_id},
                                       {"deviceId", &BootInfo::device_id},
                                       {"teeVariant", &BootInfo::tee_variant},
                                       {"mrSystem", &BootInfo::mr_system},
                                       {"keyProviderInfo", &BootInfo::key_provider_info},
                                       {"tcbStatus", &BootInfo::tcb_status}};
constexpr std::string_view k_advisories = "advisoryIds";

// Which of k_boot_fields a key is; std::size(k_boot_fields) when none.
std::size_t boot_field(std::string_view key) {
  std::size_t i = 0;
  while (i < std::size(k_boot_fields) && k_boot_fields[i].key != key) {
    ++i;
  }
  return i;
}

void name_missing(BootInfo& boot, unsigned seen) {
  for (std::size_t i = 0; i < k_required && boot.missing_field.empty(); ++i) {
    if ((seen & (1U << i)) == 0) {
      boot.missing_field = k_boot_fields[i].key;
    }
  }
}

bool read_plain(std::string_view text, BootInfo& boot) {
  PlainJson json(text, k_max_boot_depth);
  unsigned seen = 0;
  const bool good = json.object([&](std::string_view key) {
    if (const std::size_t field = boot_field(key); field < std::size(k_boot_fields)) {
      const auto value = json.string();
      if (value) {
        boot.*k_boot_fields[field].target = *value;
        seen |= 1U << field;
      }
      return value.has_value();
    }
    if (key != k_advisories) {
      return json.skip();
    }
    return json.array([&] {
      const auto value = json.string();
      if (value) {
        boot.advisory_ids.emplace_back(*value);
      }
      return value.has_value();
    });
  });
  name_missing(boot, seen);
  return good && json.at_end();
}

base::Result<BootInfo> read_any(std::string_view json) {
  auto parsed = parse_json_strict(json, {.max_bytes = k_max_boot_info, .max_depth = k_max_boot_depth});
  if (!parsed) {
    if (parsed.error().code != Code::too_large) {
      parsed.error().code = Code::bad_boot_info;
    }
    return base::fail(std::move(parsed).error(), "boot info");
  }
  if (!parsed->is_object()) {
    return base::fail(Code::boot_info_type, "boot info: not a JSON object");
  }
  BootInfo boot;
  unsigned seen = 0;
  for (const auto& [key, value] : parsed->items()) {
    if (const std::size_t field = boot_field(key); field < std::size(k_boot_fields)) {
      if (!value.is_string()) {
        return base::fail(Code::boot_info_type, base::format("boot info: {} must be a string", key));
      }
      boot.*k_boot_fields[field].target = value.get<std::string>();
      seen |= 1U << field;
    } else if (key == k_advisories) {
      const bool good = value.is_array() && std::all_of(value.begin(), value.end(),
                                                        [](const Json& item) { return item.is_string(); });
      if (!good) {
        return base::fail(Code::boot_info_type, "boot info: advisoryIds must be a list of strings");
      }
      boot.advisory_ids = value.get<std::vector<std::string>>();
    }
  }
  name_missing(boot, seen);
  return boot;
}

}  // namespace

base::Result<BootInfo> parse_boot_info(std::string_view json) {
  if (json.size() <= k_max_boot_info) {
    // What the KMS sends is plain, and a tree of it would be four fifths of a request's cost.
    BootInfo boot;
    if (read_plain(json, boot)) {
      return boot;
    }
  }
  return read_any(json);
}

std::string incomplete(const Allowlist& allowlist, const BootInfo& boot) {
  return allowlist.strict && !boot.missing_field.empty()
             ? base::format("boot info: {} is missing", boot.missing_field)
             : std::string();
}

Decision decide_app(const Allowlist* allowlist, const BootInfo& boot) {
  if (allowlist == nullptr) {
    return deny(nullptr, "app not registered");
  }
  const Allowlist& list = *allowlist;
  if (list.strict) {
    if (const auto refusal = strict_refusal(list, boot); !refusal.empty()) {
      return deny(&list, refusal);
    }
  } else if (!image_allowed(list, boot)) {
    return deny(&list, "os image not allowed");
  }
  const AllowlistApp* app = find_app(list, boot.app_id);
  if (app == nullptr) {
    return deny(&list, "app not registered");
  }
  if (!holds(app->compose_hashes, boot.compose_hash)) {
    return deny(&list, "compose hash not allowed");
  }
  if (list.strict) {
    if (!device_allowed_strict(app->allow_any_device, app->devices, boot.device_id)) {
      return deny(&list, "app is not allowed to boot on this device");
    }
  } else if (!device_allowed(app->allow_any_device, app->devices, boot.device_id)) {
    return deny(&list, "device not allowed");
  }
  return allow(list);
}

Decision decide_kms(const Allowlist* allowlist, const BootInfo& boot) {
  if (allowlist == nullptr) {
    return deny(nullptr, "kms mrAggregated not allowed");
  }
  const Allowlist& list = *allowlist;
  if (list.strict) {
    if (const auto refusal = strict_refusal(list, boot); !refusal.empty()) {
      return deny(&list, refusal);
    }
    if (!holds(list.kms_mr_aggregated, boot.mr_aggregated)) {
      return deny(&list, "aggregated MR not allowed");
    }
    if (!device_allowed_strict(list.kms_allow_any_device, list.kms_devices, boot.device_id)) {
      return deny(&list, "KMS is not allowed to boot on this device");
    }
    return allow(list);
  }
  if (!holds(list.kms_mr_aggregated, boot.mr_aggregated)) {
    return deny(&list, "kms mrAggregated not allowed");
  }
  if (!device_allowed(list.kms_allow_any_device, list.kms_devices, boot.device_id)) {
    return deny(&list, "device not allowed");
  }
  return allow(list);
}

}  // namespace dstack::app
