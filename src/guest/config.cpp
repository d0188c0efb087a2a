#include "guest/config.h"

#include <nlohmann/json.hpp>

#include "app/strict_json.h"
#include "base/format.h"
#include "crypto/hash.h"
#include "crypto/random.h"

namespace dstack::guest {

namespace {

using base::Bytes;
using base::Code;
using base::fail;
using base::Result;

constexpr app::JsonLimits k_limits{.max_bytes = 64 * 1024, .max_depth = 16};
constexpr std::size_t k_max_urls = 16;
constexpr std::size_t k_id_size = 20;

Result<nlohmann::ordered_json> parse_object(std::string_view text, std::string_view file) {
  auto value = app::parse_json_strict(text, k_limits);
  if (!value) {
    auto error = std::move(value).error().wrap(base::format("{} in the host share is malformed", file));
    error.code = Code::host_share;
    return fail(std::move(error));
  }
  if (!value->is_object()) {
    return fail(Code::host_share, base::format("{} in the host share is not a JSON object", file));
  }
  return value;
}

// A missing key and null are the empty string.
Result<std::string> text_field(const nlohmann::ordered_json& object, const char* key, std::string_view file) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) {
    return std::string();
  }
  if (!it->is_string()) {
    return fail(Code::host_share, base::format("{}: {} is not a string", file, key));
  }
  return it->get<std::string>();
}

Result<std::string> id_field(const nlohmann::ordered_json& object, const char* key) {
  DS_TRY(const auto text, text_field(object, key, ".instance_info"));
  if (text.empty()) {
    return std::string();
  }
  const auto bytes = base::from_hex(text);
  if (!bytes || bytes->size() != k_id_size) {
    return fail(Code::host_share, base::format(".instance_info: {} is not 40 hex digits", key));
  }
  return base::to_hex(*bytes);
}

}  // namespace

Result<SysConfig> parse_sys_config(std::string_view text) {
  constexpr std::string_view k_file = ".sys-config.json";
  DS_TRY(const auto object, parse_object(text, k_file));
  SysConfig config;
  if (const auto urls = object.find("kms_urls"); urls != object.end() && !urls->is_null()) {
    if (!urls->is_array() || urls->size() > k_max_urls) {
      return fail(Code::host_share,
                  base::format("{}: kms_urls is not a list of at most {} URLs", k_file, k_max_urls));
    }
    for (const auto& url : *urls) {
      if (!url.is_string()) {
        return fail(Code::host_share,
                    base::format("{}: kms_urls holds something that is not a string", k_file));
      }
      config.kms_urls.push_back(url.get<std::string>());
    }
  }
  DS_TRY(config.host_api_url, text_field(object, "host_api_url", k_file));
  DS_TRY(config.host_api_token, text_field(object, "host_api_token", k_file));
  DS_TRY(config.vm_config, text_field(object, "vm_config", k_file));
  if (config.vm_config.empty()) {
    return fail(Code::host_share, base::format("{} has no vm_config", k_file));
  }
  return config;
}

Result<InstanceInfo> parse_instance_info(std::string_view text) {
  DS_TRY(const auto object, parse_object(text, ".instance_info"));
  InstanceInfo info;
  DS_TRY(info.instance_id_seed, id_field(object, "instance_id_seed"));
  DS_TRY(info.instance_id, id_field(object, "instance_id"));
  DS_TRY(info.app_id, id_field(object, "app_id"));
  return info;
}

std::string to_json(const InstanceInfo& info) {
  nlohmann::ordered_json out;
  out["instance_id_seed"] = info.instance_id_seed;
  out["instance_id"] = info.instance_id;
  out["app_id"] = info.app_id;
  return out.dump();
}

Result<Bytes> parse_simulator_seed(std::string_view text) {
  constexpr std::string_view k_file = ".tee-simulator.json";
  DS_TRY(const auto object, parse_object(text, k_file));
  DS_TRY(const auto platform, text_field(object, "platform", k_file));
  if (platform != "tdx") {
    return fail(Code::host_share, base::format("{}: platform '{}' cannot be simulated", k_file, platform));
  }
  DS_TRY(const auto seed, text_field(object, "mock_attestation_seed", k_file));
  const auto bytes = base::from_hex(seed);
  if (!bytes || bytes->size() != 32) {
    return fail(Code::host_share, base::format("{}: mock_attestation_seed is not 64 hex digits", k_file));
  }
  return *bytes;
}

Result<BootIdentity> make_identity(std::string_view app_compose, const app::AppCompose& compose,
                                   const InstanceInfo& info) {
  BootIdentity identity;
  const auto hash = crypto::sha256(base::as_bytes(app_compose));
  identity.compose_hash.assign(hash.begin(), hash.end());
  if (info.app_id.empty()) {
    identity.app_id.assign(hash.begin(), hash.begin() + k_id_size);
  } else {
    identity.app_id = base::from_hex(info.app_id).value_or(Bytes{});
  }
  if (!info.instance_id_seed.empty() && compose.key_provider != app::KeyProvider::none) {
    identity.instance_id_seed = base::from_hex(info.instance_id_seed).value_or(Bytes{});
  } else {
    DS_TRY(identity.instance_id_seed, crypto::random_bytes(k_id_size));
  }
  if (!compose.no_instance_id) {
    const auto id = crypto::sha256({identity.instance_id_seed, identity.app_id});
    identity.instance_id.assign(id.begin(), id.begin() + k_id_size);
  }
  return identity;
}

Result<> check_supported(std::string_view app_compose, const app::AppCompose& compose,
                         bool has_encrypted_env) {
  const auto refuse = [](const std::string& what, const char* fix) {
    return fail(Code::unsupported, what + " is not supported by this version", fix);
  };
  if (compose.runner != "docker-compose") {
    return refuse(base::format("runner {}", compose.runner), "use the runner docker-compose");
  }
  if (!compose.docker_compose_file) {
    return fail(Code::bad_app_compose, "the app-compose has no docker_compose_file");
  }
  if (compose.gateway_enabled) {
    return refuse("gateway_enabled", "deploy without a gateway");
  }
  if (compose.key_provider == app::KeyProvider::local || compose.key_provider == app::KeyProvider::tpm) {
    return refuse(base::format("key provider {}", to_string(compose.key_provider)),
                  "use the key provider kms or none");
  }
  if (compose.pre_launch_script && !compose.pre_launch_script->empty()) {
    return refuse("pre_launch_script", "move the script into a container");
  }
  if (has_encrypted_env || !compose.allowed_envs.empty()) {
    return refuse("an encrypted environment", "deploy without encrypted variables");
  }
  if (compose.snapshotter) {
    return refuse(base::format("snapshotter {}", *compose.snapshotter), "leave snapshotter out");
  }
  if (compose.storage_fs && *compose.storage_fs != "ext4") {
    return refuse(base::format("storage_fs {}", *compose.storage_fs), "use ext4");
  }
  if (compose.swap_size != 0) {
    return refuse("swap_size", "leave swap_size out");
  }
  if (compose.event_log_version != 1) {
    return refuse("event_log_version 2", "use event_log_version 1");
  }
  DS_TRY(const auto document, app::parse_json_strict(app_compose, {.max_bytes = app::k_max_app_compose}));
  if (const auto it = document.find("requirements"); it != document.end() && !it->is_null()) {
    return refuse("requirements", "leave requirements out");
  }
  if (const auto it = document.find("secure_time");
      it != document.end() && it->is_boolean() && it->get<bool>()) {
    return refuse("secure_time", "set secure_time to false");
  }
  return {};
}

}  // namespace dstack::guest
