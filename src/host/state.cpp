#include "host/state.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "app/strict_json.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/unit_file.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Json = nlohmann::ordered_json;

namespace {

constexpr const char* k_way_out =
    "restore the file from a backup, or run 'dstackup destroy' (it works from the journal) and install again";

// Collects the first problem, so that the reading code stays a list of keys.
class Reader {
 public:
  explicit Reader(const Json& json) : m_json(json) {}

  void text(const char* key, std::string& out, bool required = false) {
    if (const Json* value = find(key, required)) {
      if (value->is_string()) {
        out = value->get<std::string>();
      } else if (!value->is_null()) {
        problem(key, "is not a string");
      }
    }
  }
  void text(const char* key, std::optional<std::string>& out) {
    std::string value;
    text(key, value);
    if (const auto it = m_json.find(key); it != m_json.end() && it->is_string()) {
      out = value;
    }
  }
  template <class Integer>
  void number(const char* key, Integer& out, bool required = false) {
    const Json* value = find(key, required);
    if (value == nullptr) {
      return;
    }
    if (!value->is_number_unsigned() ||
        value->get<std::uint64_t>() > std::uint64_t{std::numeric_limits<Integer>::max()}) {
      problem(key, "is not a number in range");
      return;
    }
    out = static_cast<Integer>(value->get<std::uint64_t>());
  }
  void truth(const char* key, bool& out) {
    if (const Json* value = find(key, false)) {
      if (value->is_boolean()) {
        out = value->get<bool>();
      } else {
        problem(key, "is not true or false");
      }
    }
  }
  void one_of(const char* key, const std::string& value, std::initializer_list<std::string_view> known) {
    if (!value.empty() && std::ranges::find(known, value) == known.end()) {
      problem(key, base::format("is '{}', which this version does not know", value));
    }
  }
  void own_name(const char* key, const std::string& value, bool own) {
    if (!value.empty() && !own) {
      problem(key, base::format("is '{}', which is no name of ours", value));
    }
  }
  const std::string& first_problem() const { return m_problem; }

 private:
  const Json* find(const char* key, bool required) {
    const auto it = m_json.find(key);
    if (it == m_json.end()) {
      if (required) {
        problem(key, "is missing");
      }
      return nullptr;
    }
    return &*it;
  }
  void problem(const char* key, std::string_view what) {
    if (m_problem.empty()) {
      m_problem = base::format("'{}' {}", key, what);
    }
  }

  const Json& m_json;
  std::string m_problem;
};

std::unexpected<base::Error> corrupt(const std::string& name, std::string cause) {
  return base::fail(base::Error{Code::state_corrupt, "the installation record " + name + " cannot be used",
                                std::move(cause), k_way_out});
}

Json optional_text(const std::optional<std::string>& value) {
  return value ? Json(*value) : Json(nullptr);
}

}  // namespace

bool is_own_unit(std::string_view name, std::string_view service) {
  if (!name.starts_with(service)) {
    return false;
  }
  name.remove_prefix(service.size());
  return name.empty() ||
         (name.size() > 1 && name.front() == '-' && check_unit_name(std::string("x").append(name)));
}

bool is_own_unit(std::string_view name) {
  return is_own_unit(name, "dstack-vmm") || is_own_unit(name, "dstack-auth");
}

bool is_own_project(std::string_view name) {
  constexpr std::string_view k_start = "dstack-kp-";
  return name.size() > k_start.size() && name.size() <= k_start.size() + 5 && name.starts_with(k_start) &&
         name.find_first_not_of("0123456789", k_start.size()) == std::string_view::npos;
}

std::string InstallState::exposed_url() const {
  if (expose.empty()) {
    return {};
  }
  const bool v6 = expose.find(':') != std::string::npos;
  return base::format("https://{}{}{}:{}", v6 ? "[" : "", expose, v6 ? "]" : "", dashboard_port());
}

std::uint16_t InstallState::dashboard_port() const {
  const auto colon = client_url.rfind(':');
  if (colon == std::string::npos) {
    return 0;
  }
  unsigned long port = 0;
  for (const char c : client_url.substr(colon + 1)) {
    if (c < '0' || c > '9' || port > 65535) {
      return 0;
    }
    port = port * 10 + static_cast<unsigned long>(c - '0');
  }
  return port <= 65535 ? static_cast<std::uint16_t>(port) : 0;
}

Result<InstallState> parse_state(std::string_view text, const std::string& name) {
  const auto parsed = app::parse_json_strict(text);
  if (!parsed) {
    return corrupt(name, "it is not valid JSON: " + parsed.error().what());
  }
  const Json& json = *parsed;
  if (!json.is_object()) {
    return corrupt(name, "it is not a JSON object");
  }
  if (const auto version = json.find("state_version"); version != json.end()) {
    if (!version->is_number_integer() || version->get<std::int64_t>() < 1) {
      return corrupt(name, "'state_version' is not a positive number");
    }
    if (version->get<std::int64_t>() > k_state_version) {
      return base::fail(
          Code::state_newer,
          base::format("{} was written by a newer dstackup (state version {}, this one knows {})", name,
                       version->get<std::int64_t>(), k_state_version),
          "use that newer dstackup");
    }
  }
  InstallState s;
  Reader read(json);
  read.text("prefix", s.prefix, true);
  read.text("install_prefix", s.install_prefix);
  read.text("config_dir", s.config_dir);
  read.text("state_dir", s.state_dir);
  read.text("cache_dir", s.cache_dir);
  read.text("run_dir", s.run_dir);
  read.text("allowlist_path", s.allowlist_path);
  read.text("platform", s.platform);
  read.text("client_url", s.client_url, true);
  read.text("client_token_path", s.client_token_path);
  read.number("auth_port", s.auth_port, true);
  read.text("vmm_unit", s.vmm_unit);
  read.text("auth_unit", s.auth_unit);
  read.text("kms_vm_id", s.kms_vm_id);
  read.text("kms_url", s.kms_url);
  read.text("image", s.image);
  read.text("kp_own_project", s.kp_own_project);
  read.text("kms_ca_cert", s.kms_ca_cert);
  read.text("kms_ca_sha256", s.kms_ca_sha256);
  read.text("os_image_hash", s.os_image_hash);
  read.text("journal", s.journal);
  read.text("instance", s.instance);
  // Older records have the directory of the programs under the name of what is the directory of commands now.
  const bool older = !json.contains("programs_dir");
  read.text(older ? "bin_dir" : "programs_dir", s.programs_dir);
  read.text("qemu_path", s.qemu_path);
  read.text("service_manager", s.service_manager);
  read.text("kms_image", s.kms_image);
  read.number("host_api_port", s.host_api_port);
  read.number("cid_start", s.cid_start);
  read.number("kms_port", s.kms_port);
  read.text("expose", s.expose);
  read.text("tls_cert", s.tls_cert);
  read.text("image_path", s.image_path);
  read.text("key_provider", s.key_provider);
  read.truth("skip_managed_binaries", s.skip_managed_binaries);
  read.text("vmm_bin", s.vmm_bin);
  read.text("vmm_bin_seen", s.vmm_bin_seen);
  read.text("auth_bin", s.auth_bin);
  read.text("auth_bin_seen", s.auth_bin_seen);
  read.text("supervisor_bin", s.supervisor_bin);
  if (!older) {
    read.text("bin_dir", s.bin_dir);
  }
  read.text("libexec_dir", s.libexec_dir);
  read.text("share_dir", s.share_dir);
  read.text("version", s.version);
  read.one_of("platform", s.platform, {"tdx", "amd-sev-snp", "simulated"});
  read.one_of("service_manager", s.service_manager, {"systemd", "supervisor"});
  // What has such a name is stopped and removed by destroy.
  read.own_name("vmm_unit", s.vmm_unit, is_own_unit(s.vmm_unit, "dstack-vmm"));
  read.own_name("auth_unit", s.auth_unit, is_own_unit(s.auth_unit, "dstack-auth"));
  read.own_name("kp_own_project", s.kp_own_project.value_or(""),
                is_own_project(s.kp_own_project.value_or("")));
  if (!read.first_problem().empty()) {
    return corrupt(name, read.first_problem());
  }
  return s;
}

Result<std::optional<InstallState>> load_state(const std::filesystem::path& path) {
  const auto text = base::read_file(path, 1024 * 1024);
  if (!text) {
    if (text.error().code == Code::not_found) {
      return std::optional<InstallState>();
    }
    return corrupt(path.string(), text.error().what());
  }
  DS_TRY(auto state, parse_state(*text, path.string()));
  return std::optional(std::move(state));
}

Layout installed_layout(Layout layout, const InstallState& state) {
  if (!state.image_path.empty()) {
    layout.image_path = state.image_path;
  }
  for (const auto& [chosen, directory] :
       {std::pair{&state.bin_dir, &layout.bin}, std::pair{&state.libexec_dir, &layout.libexec},
        std::pair{&state.share_dir, &layout.share}}) {
    if (!chosen->empty()) {
      *directory = *chosen;
    }
  }
  return layout;
}

Result<InstallState> require_state(const std::filesystem::path& path) {
  DS_TRY(auto state, load_state(path));
  if (!state) {
    return base::fail(Code::not_installed, "nothing is installed here: " + path.string() + " does not exist",
                      "run 'dstackup install', or name the installation with --prefix");
  }
  return std::move(*state);
}

std::string to_json_text(const InstallState& s) {
  Json json;
  json["prefix"] = s.prefix;
  json["install_prefix"] = optional_text(s.install_prefix);
  json["config_dir"] = s.config_dir;
  json["state_dir"] = s.state_dir;
  json["cache_dir"] = s.cache_dir;
  json["run_dir"] = s.run_dir;
  json["allowlist_path"] = s.allowlist_path;
  json["platform"] = s.platform;
  json["client_url"] = s.client_url;
  json["client_token_path"] = s.client_token_path;
  json["auth_port"] = s.auth_port;
  json["vmm_unit"] = s.vmm_unit;
  json["auth_unit"] = s.auth_unit;
  json["kms_vm_id"] = optional_text(s.kms_vm_id);
  json["kms_url"] = s.kms_url;
  json["image"] = optional_text(s.image);
  json["kp_own_project"] = optional_text(s.kp_own_project);
  json["state_version"] = k_state_version;
  json["kms_ca_cert"] = s.kms_ca_cert;
  json["kms_ca_sha256"] = s.kms_ca_sha256;
  json["os_image_hash"] = s.os_image_hash;
  json["journal"] = s.journal;
  json["instance"] = s.instance;
  json["programs_dir"] = s.programs_dir;
  json["qemu_path"] = s.qemu_path;
  json["service_manager"] = s.service_manager;
  json["kms_image"] = s.kms_image;
  json["host_api_port"] = s.host_api_port;
  json["cid_start"] = s.cid_start;
  json["kms_port"] = s.kms_port;
  // Only where they are used, so that most records stay short.
  for (const auto& [key, value] :
       {std::pair{"expose", &s.expose}, std::pair{"tls_cert", &s.tls_cert},
        std::pair{"image_path", &s.image_path}, std::pair{"key_provider", &s.key_provider},
        std::pair{"vmm_bin", &s.vmm_bin}, std::pair{"vmm_bin_seen", &s.vmm_bin_seen},
        std::pair{"auth_bin", &s.auth_bin}, std::pair{"auth_bin_seen", &s.auth_bin_seen},
        std::pair{"supervisor_bin", &s.supervisor_bin}, std::pair{"bin_dir", &s.bin_dir},
        std::pair{"libexec_dir", &s.libexec_dir}, std::pair{"share_dir", &s.share_dir}}) {
    if (!value->empty()) {
      json[key] = *value;
    }
  }
  if (s.skip_managed_binaries) {
    json["skip_managed_binaries"] = true;
  }
  json["version"] = s.version;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<> save_state(const std::filesystem::path& path, const InstallState& state) {
  return base::write_file_atomic(path, to_json_text(state));
}

}  // namespace dstack::host
