#include "app/allowlist.h"

#include <nlohmann/json.hpp>

#include "app/strict_json.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::app {
namespace {

using base::Code;
using Json = nlohmann::ordered_json;

std::unexpected<base::Error> refuse(std::string_view key, std::string_view why) {
  return base::fail(Code::bad_allowlist,
                    base::format("allow-list: {}: {}", base::escape_control(key.substr(0, 120)), why));
}

base::Result<> read_bool(const Json& value, std::string_view key, bool& target) {
  if (!value.is_boolean()) {
    return refuse(key, "must be true or false");
  }
  target = value.get<bool>();
  return {};
}

base::Result<> read_text(const Json& value, std::string_view key, std::string& target) {
  if (!value.is_string()) {
    return refuse(key, "must be a string");
  }
  target = value.get<std::string>();
  return {};
}

base::Result<> read_hex_list(const Json& value, std::string_view key, HexSet& target) {
  if (!value.is_array()) {
    return refuse(key, "must be a list of strings");
  }
  for (const Json& item : value) {
    if (!item.is_string()) {
      return refuse(key, "must be a list of strings");
    }
    std::string entry = base::normalize_hex(item.get_ref<const std::string&>());
    if (entry.empty()) {
      return refuse(key, "has a blank entry");
    }
    target.insert(std::move(entry));
  }
  return {};
}

template <class Set>
base::Result<> read_text_list(const Json& value, std::string_view key, Set& target) {
  if (!value.is_array()) {
    return refuse(key, "must be a list of strings");
  }
  target.clear();
  for (const Json& item : value) {
    if (!item.is_string()) {
      return refuse(key, "must be a list of strings");
    }
    target.insert(item.get<std::string>());
  }
  return {};
}

base::Result<> read_kms(const Json& value, Allowlist& list) {
  if (!value.is_object()) {
    return refuse("kms", "must be an object");
  }
  for (const auto& [key, member] : value.items()) {
    if (key == "mrAggregated") {
      DS_CHECK(read_hex_list(member, "kms.mrAggregated", list.kms_mr_aggregated));
    } else if (key == "devices") {
      DS_CHECK(read_hex_list(member, "kms.devices", list.kms_devices));
    } else if (key == "allowAnyDevice") {
      DS_CHECK(read_bool(member, "kms.allowAnyDevice", list.kms_allow_any_device));
    }
  }
  return {};
}

base::Result<AllowlistApp> read_app(const Json& value, const std::string& id) {
  if (!value.is_object()) {
    return refuse("apps." + id, "must be an object");
  }
  AllowlistApp app;
  for (const auto& [key, member] : value.items()) {
    if (key == "composeHashes") {
      DS_CHECK(read_hex_list(member, base::format("apps.{}.composeHashes", id), app.compose_hashes));
    } else if (key == "devices") {
      DS_CHECK(read_hex_list(member, base::format("apps.{}.devices", id), app.devices));
    } else if (key == "allowAnyDevice") {
      DS_CHECK(read_bool(member, base::format("apps.{}.allowAnyDevice", id), app.allow_any_device));
    }
  }
  return app;
}

base::Result<> read_apps(const Json& value, Allowlist& list) {
  if (!value.is_object()) {
    return refuse("apps", "must be an object");
  }
  list.apps.reserve(value.size());
  for (const auto& [key, member] : value.items()) {
    std::string id = base::normalize_hex(key);
    if (id.empty()) {
      return refuse("apps", "has a blank app id");
    }
    DS_TRY(AllowlistApp app, read_app(member, key));
    if (!list.apps.emplace(std::move(id), std::move(app)).second) {
      return refuse("apps." + key, "another key names the same app id");
    }
  }
  return {};
}

base::Result<> read_member(const std::string& key, const Json& value, Allowlist& list) {
  if (key == "osImages") {
    return read_hex_list(value, key, list.os_images);
  }
  if (key == "allowAnyOsImage") {
    return read_bool(value, key, list.allow_any_os_image);
  }
  if (key == "gatewayAppId") {
    return read_text(value, key, list.gateway_app_id);
  }
  if (key == "kms") {
    return read_kms(value, list);
  }
  if (key == "apps") {
    return read_apps(value, list);
  }
  if (key == "allowedTcbStatuses") {
    list.strict = true;
    return read_text_list(value, key, list.allowed_tcb_statuses);
  }
  if (key == "allowedAdvisoryIds") {
    list.strict = true;
    return read_text_list(value, key, list.allowed_advisory_ids);
  }
  if (key == "kmsContractAddr") {
    return read_text(value, key, list.kms_contract_addr);
  }
  if (key == "appImplementation") {
    return read_text(value, key, list.app_implementation);
  }
  if (key == "chainId") {
    if (!value.is_number_unsigned()) {
      return refuse(key, "must be a number of at least 0");
    }
    list.chain_id = value.get<std::uint64_t>();
  }
  return {};
}

}  // namespace

base::Result<Allowlist> parse_allowlist(std::string_view text) {
  auto parsed = parse_json_strict(text, {.max_bytes = k_max_allowlist, .max_depth = 32});
  if (!parsed) {
    parsed.error().code = Code::bad_allowlist;
    return base::fail(std::move(parsed).error(), "allow-list");
  }
  if (!parsed->is_object()) {
    return base::fail(Code::bad_allowlist, "allow-list: not a JSON object");
  }
  Allowlist list;
  for (const auto& [key, value] : parsed->items()) {
    DS_CHECK(read_member(key, value, list));
  }
  return list;
}

}  // namespace dstack::app
