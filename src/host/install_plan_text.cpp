#include <nlohmann/json.hpp>

#include "base/format.h"
#include "host/install_steps.h"

namespace dstack::host {

std::string image_of_plan(const InstallPlan& plan) {
  return !plan.image.empty() ? plan.image : !plan.image_to_pull.empty() ? "of " + plan.image_to_pull : "none";
}

std::string plan_as_text(const InstallPlan& plan, const std::vector<InstallStep>& steps) {
  std::string out =
      base::format("platform {}, guest image {}, installation below {}\n", plan.platform, image_of_plan(plan),
                   plan.layout.prefix ? plan.layout.prefix->string() : "/");
  out += "ports on 127.0.0.1\n";
  for (const auto& use : plan.ports) {
    out += base::format("  {:5} {}: {} ({}, {})\n", use.port, use.user, use.why, use.flag, use.origin);
  }
  out +=
      base::format("VM addresses\n  {}-{} {}: each VM has one for vsock (--cid-start, {})\n", plan.cid_start,
                   std::uint64_t{plan.cid_start} + k_cid_pool_size - 1, plan.vmm_unit, plan.cid_origin);
  out += "steps\n";
  for (const auto& step : steps) {
    const auto todo = step.pending();
    out += base::format("  {}: {} [{}]\n", step.name, step.why, todo.empty() ? "as it is" : todo);
    for (const auto& entry : step.creates) {
      out += base::format("      {:10} {}  ({})\n", to_string(entry.kind), entry.name, entry.note);
    }
  }
  for (const auto& warning : plan.warnings) {
    out += "warning: " + warning + "\n";
  }
  return out;
}

std::string plan_as_json(const InstallPlan& plan, const std::vector<InstallStep>& steps) {
  nlohmann::ordered_json json;
  json["dryRun"] = true;
  json["platform"] = plan.platform;
  json["image"] = plan.image;
  json["imageToPull"] = plan.image_to_pull;
  json["osImageHash"] = plan.os_image_hash;
  json["ports"] = nlohmann::ordered_json::array();
  for (const auto& use : plan.ports) {
    json["ports"].push_back({{"port", use.port},
                             {"address", "127.0.0.1"},
                             {"user", use.user},
                             {"why", use.why},
                             {"flag", use.flag},
                             {"origin", use.origin}});
  }
  json["cids"] = {{"first", plan.cid_start},
                  {"last", std::uint64_t{plan.cid_start} + k_cid_pool_size - 1},
                  {"why", "each VM has one for vsock"},
                  {"flag", "--cid-start"},
                  {"origin", plan.cid_origin}};
  json["steps"] = nlohmann::ordered_json::array();
  bool changes = false;
  for (const auto& step : steps) {
    const auto todo = step.pending();
    changes |= !todo.empty();
    nlohmann::ordered_json item = {{"name", step.name}, {"why", step.why}, {"todo", todo}};
    item["creates"] = nlohmann::ordered_json::array();
    for (const auto& entry : step.creates) {
      item["creates"].push_back({{"kind", to_string(entry.kind)}, {"name", entry.name}, {"why", entry.note}});
    }
    json["steps"].push_back(std::move(item));
  }
  json["changes"] = changes;
  json["warnings"] = plan.warnings;
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace dstack::host
