#include "kms/config.h"

#include <toml++/toml.h>
#include <algorithm>
#include <optional>
#include <set>

#include "base/format.h"
#include "base/fs.h"
#include "net/http.h"

namespace dstack::kms {
namespace {

using base::Code;
using base::fail;
using base::format;
using base::Result;

// Reads keys of a parsed file; the first wrong one sticks.
class Reader {
 public:
  explicit Reader(const toml::table& root) : m_root(root) {}

  template <class T>
  void read(std::string_view path, T& target) {
    const auto node = m_root.at_path(path);
    if (!node || m_error) {
      return;
    }
    if (const auto value = node.value_exact<T>()) {
      target = *value;
    } else {
      refuse(format("{} in the KMS configuration has the wrong type", path), "correct the value");
    }
  }

  template <class T>
  std::optional<T> find(std::string_view path) {
    if (!m_root.at_path(path)) {
      return std::nullopt;
    }
    T value{};
    read(path, value);
    return value;
  }

  std::int64_t number(std::string_view path, std::int64_t otherwise, std::int64_t low, std::int64_t high) {
    std::int64_t value = otherwise;
    read(path, value);
    if (value < low || value > high) {
      refuse(format("{} in the KMS configuration is {}", path, value), format("choose {} to {}", low, high));
    }
    return value;
  }

  // For what this version does not have: a key that asks for it must not be passed over in silence.
  void must_be(std::string_view path, bool wanted, std::string_view why) {
    bool value = wanted;
    read(path, value);
    if (value != wanted) {
      refuse(format("{} = {} in the KMS configuration: {}", path, value, why),
             format("set it to {} or remove it", wanted));
    }
  }

  void refuse(std::string message, std::string fix) {
    if (!m_error) {
      m_error = base::Error{Code::kms_config, std::move(message), {}, std::move(fix)};
    }
  }
  const std::optional<base::Error>& error() const { return m_error; }

 private:
  const toml::table& m_root;
  std::optional<base::Error> m_error;
};

void read_tls(Reader& in, const Config& config) {
  const std::pair<const char*, const char*> files[] = {
      {"rpc.tls.key", "rpc.key"}, {"rpc.tls.certs", "rpc.crt"}, {"rpc.tls.mutual.ca_certs", "tmp-ca.crt"}};
  for (const auto& [key, name] : files) {
    const auto expected = config.cert_dir / name;
    const auto value = in.find<std::string>(key);
    if (value && std::filesystem::path(*value).lexically_normal() != expected.lexically_normal()) {
      in.refuse(
          format("{} in the KMS configuration is {}, but this KMS keeps it in core.cert_dir", key, *value),
          format("set it to {}", expected.string()));
    }
  }
  in.must_be("rpc.tls.mutual.mandatory", false, "clients without a certificate must be able to call GetMeta");
}

Result<> read_anchors(Reader& in, const toml::table& root, Config& config) {
  bool insecure = false;
  in.read("core.attestation.insecure_allow_external_trust_anchors", insecure);
  const auto node = root.at_path("core.attestation.root_ca");
  if (!node) {
    return {};
  }
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    return fail(Code::kms_config, "core.attestation.root_ca in the KMS configuration is not a table");
  }
  static const std::set<std::string_view> known = {"tdx",           "gcp_tpm",       "aws_nitro_enclave",
                                                   "aws_nitro_tpm", "sev_snp_milan", "sev_snp_genoa",
                                                   "sev_snp_turin"};
  for (const auto& [key, value] : *table) {
    if (!known.contains(key.str())) {
      return fail(Code::kms_config,
                  format("core.attestation.root_ca.{} in the KMS configuration is not known", key.str()),
                  "remove the key");
    }
    if (key.str() != "tdx") {
      return fail(Code::kms_config,
                  format("core.attestation.root_ca.{}: this version only verifies TDX evidence", key.str()),
                  "remove the key");
    }
  }
  const auto path = in.find<std::string>("core.attestation.root_ca.tdx");
  if (!path || in.error()) {
    return {};
  }
  if (!insecure) {
    return fail(Code::kms_config,
                "core.attestation.root_ca.tdx names a root of its own, but "
                "core.attestation.insecure_allow_external_trust_anchors is not true",
                "remove root_ca.tdx; only for development, set insecure_allow_external_trust_anchors = true");
  }
  auto pem = base::read_file(*path, 64 * 1024);
  if (!pem) {
    return fail(std::move(pem).error(),
                "the root certificate in core.attestation.root_ca.tdx cannot be read");
  }
  auto anchors = attest::TrustAnchors::insecure_simulated(*pem);
  if (!anchors) {
    return fail(std::move(anchors).error(), format("core.attestation.root_ca.tdx: {}", *path));
  }
  config.anchors = *std::move(anchors);
  return {};
}

}  // namespace

Result<> check_domain(std::string_view domain) {
  const auto label_ok = [](std::string_view label) {
    return !label.empty() && label.size() <= 63 && label.front() != '-' && label.back() != '-' &&
           std::ranges::all_of(label, [](unsigned char c) {
             return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
           });
  };
  bool ok = !domain.empty() && domain.size() <= 253;
  for (std::string_view rest = domain; ok;) {
    const auto dot = rest.find('.');
    ok = label_ok(rest.substr(0, dot));
    if (dot == std::string_view::npos) {
      break;
    }
    rest.remove_prefix(dot + 1);
  }
  if (!ok) {
    return fail(
        Code::kms_config,
        format("'{}' is not a domain name or IPv4 address", base::escape_control(domain.substr(0, 300))),
        "use letters, digits, '-' and '.', as in kms.example.org or 10.0.2.2");
  }
  return {};
}

Result<Config> parse_config(std::string_view text) {
  toml::table root;
  try {
    root = toml::parse(text);
  } catch (const toml::parse_error& error) {
    return fail(Code::kms_config,
                format("the KMS configuration is not TOML: line {}: {}", error.source().begin.line,
                       error.description()),
                "correct the file");
  }
  Config config;
  Reader in(root);
  in.read("rpc.address", config.address);
  config.port = static_cast<std::uint16_t>(in.number("rpc.port", config.port, 0, 65535));
  config.workers = static_cast<unsigned>(in.number("default.workers", config.workers, 1, 256));
  config.log_level =
      base::parse_log_level(in.find<std::string>("default.log_level").value_or("info"), base::LogLevel::info);
  if (const auto directory = in.find<std::string>("core.cert_dir")) {
    config.cert_dir = *directory;
  }
  read_tls(in, config);
  in.read("core.enforce_self_authorization", config.enforce_self_authorization);
  in.read("core.attest_rpc_cert", config.attest_rpc_cert);
  in.must_be("core.sev_snp_key_release", false, "this version does not verify SEV-SNP evidence");
  in.must_be("core.aws_nitro_tpm_key_release", false, "this version does not verify Nitro evidence");
  in.must_be("core.admin.enabled", false, "this version has no admin listener");
  in.read("core.metrics.enabled", config.metrics);
  if (const auto type = in.find<std::string>("core.auth_api.type"); type && *type != "webhook") {
    in.refuse(
        format("core.auth_api.type = '{}' in the KMS configuration: this KMS only asks a webhook", *type),
        "set it to \"webhook\" and core.auth_api.webhook.url to the address of dstack-auth");
  }
  in.read("core.auth_api.webhook.url", config.webhook_url);
  in.read("core.onboard.enabled", config.onboard);
  in.read("core.onboard.auto_bootstrap_domain", config.auto_bootstrap_domain);
  if (in.error()) {
    return fail(*in.error());
  }
  DS_CHECK(read_anchors(in, root, config));
  if (in.error()) {
    return fail(*in.error());
  }
  if (!config.auto_bootstrap_domain.empty()) {
    DS_CHECK(check_domain(config.auto_bootstrap_domain));
  }
  const auto webhook = net::Endpoint::parse(config.webhook_url);
  if (!webhook || webhook->kind != net::Endpoint::Kind::tcp) {
    return fail(Code::kms_config,
                format("core.auth_api.webhook.url = '{}' is not an http:// URL",
                       base::escape_control(config.webhook_url)),
                "set it to http://HOST:PORT of dstack-auth");
  }
  return config;
}

Result<Config> load_config(const std::filesystem::path& file) {
  DS_TRY(auto text, base::read_file(file, 1024 * 1024));
  auto config = parse_config(text);
  if (!config) {
    return fail(std::move(config).error(), file.string());
  }
  return config;
}

}  // namespace dstack::kms
