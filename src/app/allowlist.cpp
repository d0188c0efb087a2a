#include "app/allowlist.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/plain_json.h"
#include "app/strict_json.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::app {
namespace {

using base::Code;
using Json = nlohmann::ordered_json;

constexpr int k_max_depth = 32;

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
  std::vector<std::string> entries;
  for (const Json& item : value) {
    if (!item.is_string()) {
      return refuse(key, "must be a list of strings");
    }
    entries.push_back(base::normalize_hex(item.get_ref<const std::string&>()));
    if (entries.back().empty()) {
      return refuse(key, "has a blank entry");
    }
  }
  target.assign(std::move(entries));
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

base::Result<Allowlist> read_any(std::string_view text) {
  auto parsed = parse_json_strict(text, {.max_bytes = k_max_allowlist, .max_depth = k_max_depth});
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

// The same for the plain part of JSON, straight into the index: a tree of a large file would cost several
// times the index. False when anything is unusual or wrong; then the reader above decides, and words the
// error.
class PlainReader {
 public:
  explicit PlainReader(std::string_view text) : m_json(text, k_max_depth), m_size(text.size()) {}

  bool read(Allowlist& list) {
    return m_json.object([&](std::string_view key) { return read_member(key, list); }) && m_json.at_end();
  }

 private:
  bool read_bool(bool& target) {
    const auto value = m_json.boolean();
    target = value.value_or(false);
    return value.has_value();
  }
  bool read_text(std::string& target) {
    const auto value = m_json.string();
    target = value.value_or("");
    return value.has_value();
  }
  bool read_hex_list(HexSet& target) {
    std::vector<std::string> entries;
    const bool good = m_json.array([&] {
      const auto value = m_json.string();
      return value && !entries.emplace_back(base::normalize_hex(*value)).empty();
    });
    target.assign(std::move(entries));
    return good;
  }
  template <class Set>
  bool read_text_list(Set& target) {
    target.clear();
    return m_json.array([&] {
      const auto value = m_json.string();
      if (value) {
        target.emplace(*value);
      }
      return value.has_value();
    });
  }
  bool read_kms(Allowlist& list) {
    return m_json.object([&](std::string_view key) {
      return key == "mrAggregated"     ? read_hex_list(list.kms_mr_aggregated)
             : key == "devices"        ? read_hex_list(list.kms_devices)
             : key == "allowAnyDevice" ? read_bool(list.kms_allow_any_device)
                                       : m_json.skip();
    });
  }
  bool read_app(AllowlistApp& app) {
    return m_json.object([&](std::string_view key) {
      return key == "composeHashes"    ? read_hex_list(app.compose_hashes)
             : key == "devices"        ? read_hex_list(app.devices)
             : key == "allowAnyDevice" ? read_bool(app.allow_any_device)
                                       : m_json.skip();
    });
  }
  bool read_apps(Allowlist& list) {
    // An app with one hash is some 160 bytes of text. A table that grows is made anew a dozen times.
    list.apps.reserve(m_size / 128);
    // Keys that are the same normalise to the same id, so a second one is noticed here.
    return m_json.object(
        [&](std::string_view key) {
          std::string id = base::normalize_hex(key);
          if (id.empty()) {
            return false;
          }
          const auto [app, is_new] = list.apps.try_emplace(std::move(id));
          return is_new && read_app(app->second);
        },
        /*caller_checks_keys=*/true);
  }
  bool read_member(std::string_view key, Allowlist& list) {
    if (key == "osImages") {
      return read_hex_list(list.os_images);
    }
    if (key == "allowAnyOsImage") {
      return read_bool(list.allow_any_os_image);
    }
    if (key == "gatewayAppId") {
      return read_text(list.gateway_app_id);
    }
    if (key == "kms") {
      return read_kms(list);
    }
    if (key == "apps") {
      return read_apps(list);
    }
    if (key == "allowedTcbStatuses") {
      list.strict = true;
      return read_text_list(list.allowed_tcb_statuses);
    }
    if (key == "allowedAdvisoryIds") {
      list.strict = true;
      return read_text_list(list.allowed_advisory_ids);
    }
    if (key == "kmsContractAddr") {
      return read_text(list.kms_contract_addr);
    }
    if (key == "appImplementation") {
      return read_text(list.app_implementation);
    }
    if (key == "chainId") {
      const auto value = m_json.number();
      list.chain_id = value.value_or(0);
      return value.has_value();
    }
    return m_json.skip();
  }

  PlainJson m_json;
  std::size_t m_size;
};

}  // namespace

void HexSet::assign(std::vector<std::string> entries) {
  m_entries = std::move(entries);
  std::ranges::sort(m_entries);
  m_entries.erase(std::unique(m_entries.begin(), m_entries.end()), m_entries.end());
}

void HexSet::insert(std::string entry) {
  const auto at = std::ranges::lower_bound(m_entries, entry);
  if (at == m_entries.end() || *at != entry) {
    m_entries.insert(at, std::move(entry));
  }
}

bool HexSet::contains(std::string_view entry) const {
  return std::binary_search(m_entries.begin(), m_entries.end(), entry);
}

base::Result<Allowlist> parse_allowlist(std::string_view text) {
  if (text.size() <= k_max_allowlist) {
    Allowlist list;
    if (PlainReader(text).read(list)) {
      return list;
    }
  }
  return read_any(text);
}

}  // namespace dstack::app
