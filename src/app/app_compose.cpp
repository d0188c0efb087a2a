#include "app/app_compose.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "app/strict_json.h"
#include "app/volume_spec.h"
#include "base/bytes.h"
#include "base/format.h"
#include "crypto/hash.h"

namespace dstack::app {
namespace {

using base::Code;
using Json = nlohmann::ordered_json;

base::Result<std::string> dump(const Json& manifest) {
  try {
    return manifest.dump(2);
  } catch (const std::exception&) {
    return base::fail(Code::bad_app_compose, "the compose file or the app's name is not UTF-8 text",
                      "save the file as UTF-8");
  }
}

void add_volumes(Json& manifest, const std::vector<VerityVolume>& volumes) {
  if (volumes.empty()) {
    return;
  }
  Json list = Json::array();
  for (const VerityVolume& volume : volumes) {
    list.push_back(
        {{"source", volume.source}, {"verity_root", volume.verity_root}, {"target", volume.target}});
  }
  manifest["verity_volumes"] = std::move(list);
}

std::unexpected<base::Error> refuse(std::string_view key, std::string_view why) {
  return base::fail(Code::bad_app_compose, base::format("app-compose: {}: {}", key, why));
}

// Reads members of one object with their types checked. An absent key leaves the target alone.
class Reader {
 public:
  explicit Reader(const Json& object) : m_object(object) {}

  const Json* find(std::string_view key) const {
    const auto found = m_object.find(key);
    return found == m_object.end() ? nullptr : &*found;
  }
  base::Result<> boolean(std::string_view key, bool& target) const {
    if (const Json* value = find(key)) {
      if (!value->is_boolean()) {
        return refuse(key, "must be true or false");
      }
      target = value->get<bool>();
    }
    return {};
  }
  base::Result<> required_text(std::string_view key, std::string& target) const {
    const Json* value = find(key);
    if (value == nullptr) {
      return refuse(key, "is missing");
    }
    if (!value->is_string()) {
      return refuse(key, "must be a string");
    }
    target = value->get<std::string>();
    return {};
  }
  base::Result<> text(std::string_view key, std::optional<std::string>& target) const {
    if (const Json* value = find(key); value != nullptr && !value->is_null()) {
      if (!value->is_string()) {
        return refuse(key, "must be a string");
      }
      target = value->get<std::string>();
    }
    return {};
  }
  base::Result<> texts(std::string_view key, std::vector<std::string>& target) const {
    if (const Json* value = find(key)) {
      if (!value->is_array()) {
        return refuse(key, "must be a list of strings");
      }
      for (const Json& item : *value) {
        if (!item.is_string()) {
          return refuse(key, "must be a list of strings");
        }
        target.push_back(item.get<std::string>());
      }
    }
    return {};
  }

 private:
  const Json& m_object;
};

base::Result<std::uint32_t> parse_manifest_version(const Json* value) {
  constexpr std::string_view key = "manifest_version";
  if (value == nullptr) {
    return refuse(key, "is missing");
  }
  if (value->is_number_unsigned()) {
    const auto number = value->get<std::uint64_t>();
    if (number == 1 || number == 2) {
      return static_cast<std::uint32_t>(number);
    }
    return refuse(key, "the numbers 1 and 2 are accepted; later versions are written as a string, \"3\"");
  }
  if (value->is_string()) {
    const auto& text = value->get_ref<const std::string&>();
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc{} && end == text.data() + text.size() && number >= 1 && text[0] != '0') {
      return number;
    }
  }
  return refuse(key, "must be 1, 2 or a decimal string such as \"3\"");
}

base::Result<std::uint64_t> parse_size(std::string_view key, const Json& value) {
  if (value.is_number_unsigned()) {
    return value.get<std::uint64_t>();
  }
  if (value.is_string()) {
    const std::string_view text = value.get_ref<const std::string&>();
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string unit(base::trim(text.substr(static_cast<std::size_t>(end - text.data()))));
    std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) {
      return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    });
    if (unit.size() == 2 && unit[1] == 'B') {
      unit.pop_back();
    }
    const std::size_t power = unit.empty() || unit == "B" ? 0 : std::string_view("BKMGT").find(unit);
    const bool known = unit.size() <= 1 && power != std::string_view::npos;
    if (error == std::errc{} && known && number <= (UINT64_MAX >> (10 * power))) {
      return number << (10 * power);
    }
  }
  return refuse(key, "must be a number of bytes or a size such as \"2G\"");
}

base::Result<> check_requirements(const Json* value) {
  if (value == nullptr || value->is_null()) {
    return {};
  }
  const auto check_keys = [](const Json& object, std::string_view name,
                             std::initializer_list<std::string_view> known) -> base::Result<> {
    if (!object.is_object()) {
      return refuse(name, "must be an object");
    }
    for (const auto& [key, unused] : object.items()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        return refuse(name, base::format("has the unknown key \"{}\"", key));
      }
    }
    return {};
  };
  DS_CHECK(
      check_keys(*value, "requirements",
                 {"os_version", "platforms", "tdx_measure_acpi_tables", "launch_token_hash", "gpu_policy"}));
  if (const auto policy = value->find("gpu_policy"); policy != value->end() && !policy->is_null()) {
    DS_CHECK(check_keys(*policy, "requirements.gpu_policy",
                        {"attest_gpu", "rego", "allow_devtools", "allow_debug", "allow_insecure_boot"}));
  }
  return {};
}

base::Result<> read_volumes(const Json* value, std::vector<VerityVolume>& target) {
  if (value == nullptr) {
    return {};
  }
  if (!value->is_array()) {
    return refuse("verity_volumes", "must be a list");
  }
  for (const Json& item : *value) {
    if (!item.is_object()) {
      return refuse("verity_volumes", "must be a list of objects");
    }
    VerityVolume volume;
    const Reader reader(item);
    DS_CHECK(reader.required_text("source", volume.source));
    DS_CHECK(reader.required_text("verity_root", volume.verity_root));
    DS_CHECK(reader.required_text("target", volume.target));
    if (auto good = check_volume(volume); !good) {
      return refuse("verity_volumes", good.error().message);
    }
    volume.verity_root = base::normalize_hex(volume.verity_root);
    target.push_back(std::move(volume));
  }
  if (auto good = check_volume_targets(target); !good) {
    return refuse("verity_volumes", good.error().message);
  }
  return {};
}

base::Result<> read_init_script(const Json* value, std::vector<std::string>& target) {
  constexpr std::string_view key = "init_script";
  if (value == nullptr || value->is_null()) {
    return {};
  }
  if (value->is_string()) {
    target.push_back(value->get<std::string>());
    return {};
  }
  if (!value->is_array() || value->size() > 5) {
    return refuse(key, "must be a string or a list of at most 5 strings");
  }
  for (const Json& item : *value) {
    if (!item.is_string()) {
      return refuse(key, "must be a string or a list of at most 5 strings");
    }
    target.push_back(item.get<std::string>());
  }
  return {};
}

base::Result<KeyProvider> resolve_key_provider(const Reader& reader, const AppCompose& compose) {
  std::optional<std::string> name;
  DS_CHECK(reader.text("key_provider", name));
  if (!name) {
    return compose.kms_enabled                  ? KeyProvider::kms
           : compose.local_key_provider_enabled ? KeyProvider::local
                                                : KeyProvider::none;
  }
  for (const KeyProvider provider :
       {KeyProvider::none, KeyProvider::kms, KeyProvider::local, KeyProvider::tpm}) {
    if (*name == to_string(provider)) {
      return provider;
    }
  }
  return refuse("key_provider", "must be none, kms, local or tpm");
}

base::Result<> read_rest(const Reader& reader, AppCompose& compose) {
  bool gateway = false;
  bool tproxy = false;
  DS_CHECK(reader.boolean("gateway_enabled", gateway));
  DS_CHECK(reader.boolean("tproxy_enabled", tproxy));
  compose.gateway_enabled = gateway || tproxy;

  std::optional<std::string> provider_id;
  DS_CHECK(reader.text("key_provider_id", provider_id));
  if (provider_id) {
    const auto bytes = base::from_hex(*provider_id);
    if (!bytes) {
      return refuse("key_provider_id", "must be hex digits");
    }
    compose.key_provider_id = base::to_hex(*bytes);
  }
  if (const Json* value = reader.find("swap_size"); value != nullptr && !value->is_null()) {
    DS_TRY(compose.swap_size, parse_size("swap_size", *value));
  }
  if (const Json* value = reader.find("event_log_version"); value != nullptr && !value->is_null()) {
    if (!value->is_number_unsigned() ||
        (value->get<std::uint64_t>() != 1 && value->get<std::uint64_t>() != 2)) {
      return refuse("event_log_version", "must be 1 or 2");
    }
    compose.event_log_version = value->get<std::uint32_t>();
  }
  if (compose.snapshotter && *compose.snapshotter != "overlayfs" && *compose.snapshotter != "stargz") {
    return refuse("snapshotter", "must be overlayfs or stargz");
  }
  return {};
}

}  // namespace

std::string_view to_string(KeyProvider provider) {
  switch (provider) {
    case KeyProvider::none:
      return "none";
    case KeyProvider::kms:
      return "kms";
    case KeyProvider::local:
      return "local";
    case KeyProvider::tpm:
      return "tpm";
  }
  return "none";
}

base::Result<std::string> build_app_compose(const DeployManifest& manifest) {
  const bool nerdctl = manifest.runner == "nerdctl-compose";
  if (!nerdctl && manifest.runner != "docker-compose") {
    return base::fail(Code::invalid_argument, base::format("unknown runner \"{}\"", manifest.runner),
                      "use docker-compose or nerdctl-compose");
  }
  if (manifest.snapshotter && !nerdctl) {
    return base::fail(Code::invalid_argument, "a snapshotter needs the runner nerdctl-compose",
                      "leave the snapshotter out or choose nerdctl-compose");
  }
  DS_CHECK(check_volume_targets(manifest.verity_volumes));
  Json out;
  if (nerdctl) {
    out["manifest_version"] = "3";
  } else {
    out["manifest_version"] = 2;
  }
  out["name"] = manifest.name;
  out["runner"] = manifest.runner;
  out["docker_compose_file"] = manifest.docker_compose_file;
  out["kms_enabled"] = manifest.kms_enabled;
  out["gateway_enabled"] = false;
  out["local_key_provider_enabled"] = false;
  if (!manifest.key_provider_id.empty()) {
    out["key_provider_id"] = manifest.key_provider_id;
  }
  out["public_logs"] = true;
  out["public_sysinfo"] = true;
  out["no_instance_id"] = false;
  out["secure_time"] = false;
  if (manifest.snapshotter) {
    out["snapshotter"] = *manifest.snapshotter;
  }
  add_volumes(out, manifest.verity_volumes);
  return dump(out);
}

base::Result<std::string> build_app_compose(const KmsManifest& manifest) {
  DS_CHECK(check_volume_targets(manifest.verity_volumes));
  Json out;
  out["manifest_version"] = 2;
  out["name"] = manifest.name;
  out["runner"] = "docker-compose";
  out["docker_compose_file"] = manifest.docker_compose_file;
  if (!manifest.init_script.empty()) {
    out["init_script"] = manifest.init_script;
  }
  out["kms_enabled"] = false;
  out["gateway_enabled"] = false;
  out["local_key_provider_enabled"] = manifest.local_key_provider_enabled;
  out["public_logs"] = true;
  out["public_sysinfo"] = true;
  out["public_tcbinfo"] = true;
  out["no_instance_id"] = false;
  out["secure_time"] = false;
  out["allowed_envs"] = Json::array();
  add_volumes(out, manifest.verity_volumes);
  return dump(out);
}

std::string compose_hash(std::string_view app_compose) {
  return base::to_hex(crypto::sha256(base::as_bytes(app_compose)));
}

std::string app_id_from_hash(std::string_view compose_hash_hex) {
  return std::string(compose_hash_hex.substr(0, 40));
}

base::Result<AppCompose> parse_app_compose(std::string_view bytes) {
  auto parsed = parse_json_strict(bytes, {.max_bytes = k_max_app_compose, .max_depth = 64});
  if (!parsed) {
    parsed.error().code = Code::bad_app_compose;
    return base::fail(std::move(parsed).error(), "app-compose");
  }
  if (!parsed->is_object()) {
    return base::fail(Code::bad_app_compose, "app-compose: not a JSON object");
  }
  const Reader reader(*parsed);
  AppCompose compose;
  DS_TRY(compose.manifest_version, parse_manifest_version(reader.find("manifest_version")));
  DS_CHECK(reader.required_text("name", compose.name));
  DS_CHECK(reader.required_text("runner", compose.runner));
  DS_CHECK(reader.text("docker_compose_file", compose.docker_compose_file));
  DS_CHECK(read_init_script(reader.find("init_script"), compose.init_script));
  DS_CHECK(reader.text("pre_launch_script", compose.pre_launch_script));
  DS_CHECK(reader.boolean("kms_enabled", compose.kms_enabled));
  DS_CHECK(reader.boolean("local_key_provider_enabled", compose.local_key_provider_enabled));
  DS_CHECK(reader.boolean("public_logs", compose.public_logs));
  DS_CHECK(reader.boolean("public_sysinfo", compose.public_sysinfo));
  DS_CHECK(reader.boolean("public_tcbinfo", compose.public_tcbinfo));
  DS_CHECK(reader.boolean("no_instance_id", compose.no_instance_id));
  DS_CHECK(reader.boolean("secure_time", compose.secure_time));
  DS_CHECK(reader.texts("allowed_envs", compose.allowed_envs));
  DS_CHECK(reader.text("storage_fs", compose.storage_fs));
  DS_CHECK(reader.text("snapshotter", compose.snapshotter));
  DS_CHECK(read_rest(reader, compose));
  DS_TRY(compose.key_provider, resolve_key_provider(reader, compose));
  DS_CHECK(check_requirements(reader.find("requirements")));
  DS_CHECK(read_volumes(reader.find("verity_volumes"), compose.verity_volumes));
  return compose;
}

}  // namespace dstack::app
