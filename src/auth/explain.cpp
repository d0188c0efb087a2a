#include "auth/explain.h"

#include <algorithm>
#include <vector>

#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::auth {

namespace {

std::string count(std::size_t number, std::string_view what) {
  return base::format("{} {}{}", number, what, number == 1 ? "" : "s");
}

std::string shown(const std::string& value) {
  const auto normal = base::normalize_hex(value);
  return normal.empty() ? "(missing)" : base::escape_control(normal.substr(0, 128));
}

std::string devices(bool any, const app::HexSet& list, bool strict) {
  if (any) {
    return "any device (allowAnyDevice)";
  }
  if (list.empty()) {
    return strict ? "no device: the list is empty" : "any device (none is listed)";
  }
  return count(list.size(), "device");
}

std::string rule_of(const app::Allowlist& list, const app::BootInfo& boot, const app::Decision& decision) {
  const auto& reason = decision.reason;
  const auto app = list.apps.find(base::normalize_hex(boot.app_id));
  if (reason == "os image not allowed" || reason == "OS image is not allowed") {
    return list.os_images.empty() ? "osImages is empty, which allows no image"
                                  : base::format("osImageHash {} is not in osImages ({} listed)",
                                                 shown(boot.os_image_hash), list.os_images.size());
  }
  if (reason == "app not registered") {
    return base::format("appId {} is no key of apps ({} registered)", shown(boot.app_id), list.apps.size());
  }
  if (reason == "compose hash not allowed") {
    const auto known = app == list.apps.end() ? 0 : app->second.compose_hashes.size();
    return base::format("composeHash {} is not among the composeHashes of app {} ({} listed)",
                        shown(boot.compose_hash), shown(boot.app_id), known);
  }
  if (reason == "kms mrAggregated not allowed" || reason == "aggregated MR not allowed") {
    return base::format("mrAggregated {} is not in kms.mrAggregated ({} listed)", shown(boot.mr_aggregated),
                        list.kms_mr_aggregated.size());
  }
  if (reason.find("device") != std::string::npos) {
    return base::format("deviceId {} is not among the listed devices, and allowAnyDevice is not set",
                        shown(boot.device_id));
  }
  if (reason == "TCB status is not allowed") {
    return base::format("strict profile: tcbStatus '{}' is not in allowedTcbStatuses",
                        base::escape_control(boot.tcb_status.substr(0, 64)));
  }
  if (reason == "advisory ID is not allowed") {
    return "strict profile: an entry of advisoryIds is not in allowedAdvisoryIds";
  }
  return "every rule is met";
}

}  // namespace

std::string describe(const app::Allowlist& list) {
  std::string out;
  const auto line = [&](const std::string& text) { out += text + "\n"; };
  line(base::format("profile: {}", list.strict ? "strict (TCB status, advisories and OS image are checked)"
                                               : "single operator (TCB status is not checked)"));
  if (!list.os_images.empty()) {
    line(base::format("OS images: {} allowed", list.os_images.size()));
  } else if (list.allow_any_os_image && !list.strict) {
    line("OS images: any (allowAnyOsImage) - warning: whoever can start a VM chooses its operating system");
  } else {
    line("OS images: none - warning: osImages is empty, so every app is denied");
  }
  if (list.kms_mr_aggregated.empty()) {
    line("KMS: none may boot or be replicated (kms.mrAggregated is empty)");
  } else {
    line(base::format("KMS: {} allowed, on {}", count(list.kms_mr_aggregated.size(), "measurement"),
                      devices(list.kms_allow_any_device, list.kms_devices, list.strict)));
  }
  std::vector<std::string> ids;
  ids.reserve(list.apps.size());
  for (const auto& [id, app] : list.apps) {
    ids.push_back(id);
  }
  std::ranges::sort(ids);
  line(base::format("apps: {}", ids.size()));
  constexpr std::size_t k_shown = 50;
  for (std::size_t i = 0; i < std::min(ids.size(), k_shown); ++i) {
    const auto& app = list.apps.at(ids[i]);
    line(base::format("  {}: {}, on {}{}", base::escape_control(ids[i]),
                      app.compose_hashes.size() == 1
                          ? "1 compose hash"
                          : base::format("{} compose hashes", app.compose_hashes.size()),
                      devices(app.allow_any_device, app.devices, list.strict),
                      app.compose_hashes.empty() ? " - warning: without a hash it is denied" : ""));
  }
  if (ids.size() > k_shown) {
    line(base::format("  and {} more", ids.size() - k_shown));
  }
  return out;
}

std::string explain(const app::Allowlist& list, const app::BootInfo& boot, bool kms) {
  if (const auto refusal = app::incomplete(list, boot); !refusal.empty()) {
    return base::format(
        "{}: refused with HTTP 400, before any rule\nreason: {}\nrule: strict profile: {}\n",
        kms ? "KMS" : "app", refusal,
        "mrAggregated, osImageHash, appId, composeHash, instanceId and deviceId must be there");
  }
  const auto decision = kms ? app::decide_kms(&list, boot) : app::decide_app(&list, boot);
  return base::format("{}: {}\nreason: {}\nrule: {}\n", kms ? "KMS" : "app",
                      decision.allowed ? "allowed" : "denied",
                      decision.reason.empty() ? "(none)" : decision.reason, rule_of(list, boot, decision));
}

}  // namespace dstack::auth
