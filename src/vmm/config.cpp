#include "vmm/config.h"

#include <arpa/inet.h>

#include <toml++/toml.h>
#include <algorithm>
#include <charconv>
#include <set>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;

namespace {

constexpr std::size_t k_max_config = 1024 * 1024;
constexpr std::size_t k_max_secret_file = 4096;
constexpr std::size_t k_max_pem_file = 64 * 1024;

bool is_ip(const std::string& text) {
  in6_addr buffer;
  return ::inet_pton(AF_INET, text.c_str(), &buffer) == 1 ||
         ::inet_pton(AF_INET6, text.c_str(), &buffer) == 1;
}

// "4M", "0x1000", "65536".
std::optional<std::uint64_t> parse_size(std::string_view text) {
  unsigned shift = 0;
  if (!text.empty()) {
    switch (text.back() | 0x20) {
      case 'k':
        shift = 10;
        break;
      case 'm':
        shift = 20;
        break;
      case 'g':
        shift = 30;
        break;
      case 't':
        shift = 40;
        break;
      default:
        break;
    }
  }
  if (shift > 0) {
    text.remove_suffix(1);
  }
  int radix = 10;
  if (text.starts_with("0x") && shift == 0) {
    text.remove_prefix(2);
    radix = 16;
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, radix);
  if (error != std::errc{} || end != text.data() + text.size() || value > (UINT64_MAX >> shift)) {
    return std::nullopt;
  }
  return value << shift;
}

// Reads keys by dotted path, remembers which ones, and the first thing that was wrong.
class Reader {
 public:
  Reader(const toml::table& root, std::string_view name) : m_root(root), m_name(name) {}

  void text(std::string_view key, std::string& out) {
    if (const auto node = find(key)) {
      if (const auto value = node.value<std::string>(); value && node.is_string()) {
        out = *value;
      } else {
        wrong(key, "a string");
      }
    }
  }
  void flag(std::string_view key, bool& out) {
    if (const auto node = find(key)) {
      if (const auto value = node.value<bool>(); value && node.is_boolean()) {
        out = *value;
      } else {
        wrong(key, "true or false");
      }
    }
  }
  template <class Number>
  void number(std::string_view key, Number& out, std::int64_t low, std::int64_t high) {
    if (const auto node = find(key)) {
      const auto value = node.value<std::int64_t>();
      if (value && node.is_integer() && *value >= low && *value <= high) {
        out = static_cast<Number>(*value);
      } else {
        wrong(key, base::format("a whole number from {} to {}", low, high));
      }
    }
  }
  void seconds(std::string_view key, std::chrono::seconds& out, std::int64_t low = 1) {
    std::int64_t value = out.count();
    number(key, value, low, 365LL * 24 * 3600);
    out = std::chrono::seconds(value);
  }
  void size(std::string_view key, std::uint64_t& out) {
    const auto node = find(key);
    if (!node) {
      return;
    }
    if (const auto value = node.value<std::int64_t>(); value && node.is_integer() && *value >= 0) {
      out = static_cast<std::uint64_t>(*value);
      return;
    }
    const auto value = node.value<std::string>();
    const auto parsed = value ? parse_size(*value) : std::nullopt;
    if (parsed) {
      out = *parsed;
    } else {
      wrong(key, "a size such as \"4M\"");
    }
  }
  void texts(std::string_view key, std::vector<std::string>& out) {
    const auto node = find(key);
    if (!node) {
      return;
    }
    out.clear();
    const auto* list = node.as_array();
    if (list == nullptr) {
      wrong(key, "a list of strings");
      return;
    }
    for (const auto& item : *list) {
      const auto value = item.value<std::string>();
      if (!value || !item.is_string()) {
        wrong(key, "a list of strings");
        return;
      }
      out.push_back(*value);
    }
  }
  toml::node_view<const toml::node> find(std::string_view key) {
    m_known.insert(std::string(key));
    return m_root.at_path(key);
  }
  void wrong(std::string_view key, std::string_view wanted) {
    if (!m_error) {
      m_error = base::Error{Code::vmm_config,
                            base::format("{}: `{}` must be {}", m_name, key, wanted),
                            {},
                            base::format("correct `{}` in {}", key, m_name)};
    }
  }
  const std::optional<base::Error>& error() const { return m_error; }

  std::vector<std::string> unknown() const {
    std::vector<std::string> out;
    collect(m_root, "", out);
    return out;
  }

 private:
  void collect(const toml::table& table, const std::string& prefix, std::vector<std::string>& out) const {
    for (const auto& [key, node] : table) {
      const auto path = prefix + std::string(key.str());
      if (m_known.contains(path)) {
        continue;
      }
      if (const auto* inner = node.as_table(); inner != nullptr) {
        collect(*inner, path + ".", out);
      } else {
        out.push_back(path);
      }
    }
  }

  const toml::table& m_root;
  std::string_view m_name;
  std::set<std::string, std::less<>> m_known;
  std::optional<base::Error> m_error;
};

void read_ranges(Reader& reader, PortMappingPolicy& policy) {
  constexpr std::string_view k_key = "cvm.port_mapping.range";
  const auto node = reader.find(k_key);
  if (!node) {
    return;
  }
  policy.ranges.clear();
  const auto* list = node.as_array();
  if (list == nullptr) {
    reader.wrong(k_key, "a list of {protocol, from, to}");
    return;
  }
  for (const auto& item : *list) {
    const auto* table = item.as_table();
    const auto protocol = table != nullptr ? (*table)["protocol"].value_or(std::string()) : std::string();
    const auto from = table != nullptr ? (*table)["from"].value_or(std::int64_t{-1}) : -1;
    const auto to = table != nullptr ? (*table)["to"].value_or(std::int64_t{-1}) : -1;
    if ((protocol != "tcp" && protocol != "udp") || from < 1 || to > 65535 || from > to) {
      reader.wrong(k_key,
                   "a list of {protocol = \"tcp\" or \"udp\", from, to} with 1 <= from <= to <= 65535");
      return;
    }
    policy.ranges.push_back({protocol, static_cast<std::uint16_t>(from), static_cast<std::uint16_t>(to)});
  }
}

Result<std::string> read_secret(const fs::path& path, std::string_view key,
                                std::size_t limit = k_max_secret_file) {
  auto text = base::read_file(path, limit);
  if (!text) {
    auto error = std::move(text).error();
    error.code = Code::vmm_config;
    error.fix = base::format("check the file that `{}` names and who may read it", key);
    return fail(std::move(error), base::format("`{}` cannot be read", key));
  }
  return std::string(base::trim(*text));
}

fs::path resolve(const fs::path& directory, const std::string& path) {
  return path.empty() ? fs::path() : (directory / path).lexically_normal();
}

template <class Value>
void choose(Reader& reader, std::string_view key, Value& out,
            std::initializer_list<std::pair<std::string_view, Value>> choices) {
  std::string text;
  reader.text(key, text);
  if (text.empty()) {
    return;
  }
  std::string names;
  for (const auto& [name, value] : choices) {
    if (name == text) {
      out = value;
      return;
    }
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  reader.wrong(key, "one of " + names);
}

void read_cvm(Reader& reader, Config& config, const fs::path& directory) {
  choose<Platform>(
      reader, "cvm.platform", config.platform,
      {{"simulated", Platform::simulated}, {"tdx", Platform::tdx}, {"amd-sev-snp", Platform::amd_sev_snp}});
  choose<AcceleratorChoice>(reader, "cvm.accelerator", config.accelerator,
                            {{"auto", AcceleratorChoice::automatic},
                             {"kvm", AcceleratorChoice::kvm},
                             {"tcg", AcceleratorChoice::tcg}});
  reader.text("cvm.qemu_path", config.qemu_path);
  reader.texts("cvm.kms_urls", config.kms_urls);
  reader.texts("cvm.gateway_urls", config.gateway_urls);
  reader.text("cvm.pccs_url", config.pccs_url);
  reader.text("cvm.docker_registry", config.docker_registry);
  std::string volumes;
  std::string cgroup;
  reader.text("cvm.volumes_dir", volumes);
  reader.text("cvm.cgroup_root", cgroup);
  config.volumes_dir = resolve(directory, volumes);
  config.cgroup_root = resolve(directory, cgroup);
  // For platforms with vsock; simulated VMs have none.
  std::uint32_t unused = 0;
  reader.number("cvm.cid_start", unused, 3, UINT32_MAX);
  reader.number("cvm.cid_pool_size", unused, 1, UINT32_MAX);
  reader.number("cvm.max_allocable_vcpu", config.max_vcpu, 1, 4096);
  reader.number("cvm.max_allocable_memory_in_mb", config.max_memory_mb, 1, INT32_MAX);

  std::string mode = "user";
  reader.text("cvm.networking.mode", mode);
  if (mode != "user") {
    reader.wrong("cvm.networking.mode", "\"user\", the only mode of this version");
  }
  reader.text("cvm.networking.net", config.networking.net);
  reader.text("cvm.networking.dhcp_start", config.networking.dhcp_start);
  reader.flag("cvm.networking.restrict", config.networking.restrict_guests);
  reader.text("cvm.networking.mac_prefix", config.networking.mac_prefix);
  const auto plain = [](const std::string& text) {
    return text.find_first_not_of("0123456789abcdefABCDEF.:/") == std::string::npos;
  };
  for (const auto& [key, text] : {std::pair{"cvm.networking.net", &config.networking.net},
                                  std::pair{"cvm.networking.dhcp_start", &config.networking.dhcp_start},
                                  std::pair{"cvm.networking.mac_prefix", &config.networking.mac_prefix}}) {
    if (!plain(*text)) {
      reader.wrong(key, "an address");
    }
  }

  reader.flag("cvm.port_mapping.enabled", config.port_mapping.enabled);
  reader.text("cvm.port_mapping.address", config.port_mapping.address);
  if (!is_ip(config.port_mapping.address)) {
    reader.wrong("cvm.port_mapping.address", "an IP address");
  }
  read_ranges(reader, config.port_mapping);

  auto& restart = config.auto_restart;
  reader.flag("cvm.auto_restart.enabled", restart.enabled);
  reader.seconds("cvm.auto_restart.interval", restart.interval);
  reader.number("cvm.auto_restart.max_retries", restart.max_retries, 0, 1'000'000);
  reader.seconds("cvm.auto_restart.initial_backoff", restart.initial_backoff);
  reader.seconds("cvm.auto_restart.max_backoff", restart.max_backoff);
  reader.seconds("cvm.auto_restart.reset_window", restart.reset_window);

  reader.size("cvm.log.max_bytes", config.log.max_bytes);
  reader.number("cvm.log.max_backups", config.log.max_backups, 0, 100);
  reader.seconds("cvm.log.check_interval_secs", config.log.check_interval);
}

Result<> read_secrets(Reader& reader, Config& config, const fs::path& directory) {
  reader.flag("auth.enabled", config.auth.enabled);
  reader.texts("auth.tokens", config.auth.tokens);
  std::string token_file;
  reader.text("auth.token_file", token_file);
  if (config.auth.enabled && !token_file.empty()) {
    DS_TRY(auto token, read_secret(resolve(directory, token_file), "auth.token_file"));
    config.auth.tokens.push_back(std::move(token));
  }
  std::erase(config.auth.tokens, "");

  reader.text("cvm.tee_simulator.mock_attestation_seed", config.mock_attestation_seed);
  std::string seed_file;
  reader.text("cvm.tee_simulator.mock_attestation_seed_file", seed_file);
  if (!seed_file.empty()) {
    DS_TRY(config.mock_attestation_seed,
           read_secret(resolve(directory, seed_file), "cvm.tee_simulator.mock_attestation_seed_file"));
  }
  if (!config.mock_attestation_seed.empty()) {
    const auto seed = base::from_hex(config.mock_attestation_seed);
    if (!seed || seed->size() != 32) {
      // The value is a secret: the message must not repeat it.
      reader.wrong("cvm.tee_simulator.mock_attestation_seed", "64 hex digits");
    }
  }
  return {};
}

Result<> read_expose(Reader& reader, Config& config, const fs::path& directory) {
  std::string address;
  std::string certificate;
  std::string key;
  reader.text("expose.address", address);
  reader.text("expose.tls_cert", certificate);
  reader.text("expose.tls_key", key);
  if (address.empty()) {
    return {};
  }
  DS_TRY(config.expose.address, parse_listen_address(address));
  if (!config.expose.address.unix_path.empty()) {
    reader.wrong("expose.address", "an IP address and port");
  }
  if (certificate.empty() || key.empty()) {
    reader.wrong(certificate.empty() ? "expose.tls_cert" : "expose.tls_key",
                 "the file for TLS, without which nothing is exposed");
    return {};
  }
  DS_TRY(config.expose.certificate_pem,
         read_secret(resolve(directory, certificate), "expose.tls_cert", k_max_pem_file));
  DS_TRY(config.expose.private_key_pem,
         read_secret(resolve(directory, key), "expose.tls_key", k_max_pem_file));
  return {};
}

}  // namespace

std::string_view to_string(Platform platform) {
  switch (platform) {
    case Platform::simulated:
      return "simulated";
    case Platform::tdx:
      return "tdx";
    case Platform::amd_sev_snp:
      return "amd-sev-snp";
  }
  return "";
}

bool ListenAddress::loopback() const {
  return !unix_path.empty() || ip == "::1" || ip.starts_with("127.");
}

std::string ListenAddress::to_string() const {
  if (!unix_path.empty()) {
    return "unix:" + unix_path;
  }
  return ip.find(':') == std::string::npos ? base::format("{}:{}", ip, port)
                                           : base::format("[{}]:{}", ip, port);
}

Result<ListenAddress> parse_listen_address(std::string_view text) {
  const auto bad = [text] {
    return fail(Code::vmm_config, base::format("`{}` is not an address to listen on", text),
                "write tcp:127.0.0.1:9080 or unix:/path/to/socket");
  };
  ListenAddress out;
  if (text.starts_with("unix:")) {
    out.unix_path = text.substr(5);
    return out.unix_path.empty() ? Result<ListenAddress>(bad()) : out;
  }
  if (text.starts_with("tcp:")) {
    text.remove_prefix(4);
  }
  std::string_view port;
  if (text.starts_with("[")) {
    const auto close = text.find(']');
    if (close == std::string_view::npos) {
      return bad();
    }
    out.ip = text.substr(1, close - 1);
    port = text.substr(close + 1);
  } else {
    const auto colon = text.find(':');
    out.ip = text.substr(0, colon);
    port = colon == std::string_view::npos ? std::string_view() : text.substr(colon);
  }
  out.port = 8000;
  if (!port.empty()) {
    const auto* const end = port.data() + port.size();
    const auto [stop, error] = std::from_chars(port.data() + 1, end, out.port);
    if (port[0] != ':' || error != std::errc{} || stop != end) {
      return bad();
    }
  }
  if (!is_ip(out.ip)) {
    return bad();
  }
  return out;
}

Result<Config> parse_config(std::string_view text, std::string_view name, const fs::path& directory) {
  toml::table root;
  try {
    root = toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    return fail(Code::vmm_config,
                base::format("{}:{}:{}: {}", name, error.source().begin.line, error.source().begin.column,
                             error.description()),
                "correct the TOML syntax there");
  }
  Config config;
  Reader reader(root, name);
  std::string address = "unix:./vmm.sock";
  reader.text("address", address);
  DS_TRY(config.address, parse_listen_address(address));
  if (!config.address.unix_path.empty()) {
    config.address.unix_path = resolve(directory, config.address.unix_path).native();
  }
  reader.text("node_name", config.node_name);
  reader.text("log_level", config.log_level);
  reader.number("event_buffer_size", config.event_buffer_size, 1, 10'000);
  std::string run_path;
  std::string image_path;
  reader.text("run_path", run_path);
  reader.text("image.path", image_path);
  config.run_path = resolve(directory, run_path);
  config.image_path = resolve(directory, image_path);
  read_cvm(reader, config, directory);
  DS_CHECK(read_secrets(reader, config, directory));
  DS_CHECK(read_expose(reader, config, directory));
  std::string ident;
  reader.text("host_api.ident", ident);
  reader.text("host_api.address", config.host_api_ip);
  reader.number("host_api.port", config.host_api_port, 0, 65535);
  if (config.host_api_ip.starts_with("vsock:") && config.platform == Platform::simulated) {
    reader.wrong("host_api.address", "an IP address: simulated VMs have no vsock");
  } else if (!is_ip(config.host_api_ip) && config.platform == Platform::simulated) {
    reader.wrong("host_api.address", "an IP address");
  }
  if (config.run_path.empty()) {
    reader.wrong("run_path", "the directory for VMs");
  }
  if (config.image_path.empty()) {
    reader.wrong("image.path", "the directory of guest images");
  }
  if (reader.error()) {
    return fail(*reader.error());
  }
  if (config.qemu_path.empty()) {
    config.qemu_path = base::find_tool("qemu-system-x86_64").value_or("qemu-system-x86_64");
  }
  config.unknown_keys = reader.unknown();
  return config;
}

Result<Config> load_config(const fs::path& path) {
  auto text = base::read_file(path, k_max_config);
  if (!text) {
    auto error = std::move(text).error();
    error.fix = "name the configuration with -c FILE; `dstack-vmm --help` shows an example";
    return fail(std::move(error), base::format("the configuration {} cannot be read", path.native()));
  }
  std::error_code ignored;
  return parse_config(*text, path.native(), fs::absolute(path, ignored).parent_path());
}

}  // namespace dstack::vmm
