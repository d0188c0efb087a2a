#include "client/known_hosts.h"

#include <cstdlib>
#include <sstream>
#include <utility>
#include <vector>

#include "base/format.h"
#include "base/fs.h"
#include "host/tls_identity.h"

namespace dstack::client {

using base::Code;
using base::Result;

namespace {

constexpr std::size_t k_max_file = 1024 * 1024;

using Lines = std::vector<std::pair<std::string, std::string>>;  // host, fingerprint

Result<Lines> read(const std::filesystem::path& path) {
  auto text = base::read_file(path, k_max_file);
  if (!text) {
    return text.error().code == Code::not_found ? Result<Lines>(Lines())
                                                : base::fail(std::move(text).error());
  }
  Lines out;
  std::istringstream lines(*text);
  std::size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (base::trim(line).empty() || line.starts_with('#')) {
      continue;
    }
    std::istringstream words(line);
    std::string host, fingerprint, rest;
    words >> host >> fingerprint;
    const auto parsed = host::parse_fingerprint(fingerprint);
    if (words >> rest || !parsed) {
      return base::fail(Code::parse,
                        base::format("{}:{} is not \"HOST:PORT sha256:HEX\"", path.string(), number),
                        "correct the line, or remove it and give --fingerprint again");
    }
    out.emplace_back(std::move(host), *parsed);
  }
  return out;
}

}  // namespace

std::optional<std::filesystem::path> KnownHosts::default_path() {
  if (const char* config = std::getenv("XDG_CONFIG_HOME"); config != nullptr && *config == '/') {
    return std::filesystem::path(config) / "dstack/known_hosts";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    return std::filesystem::path(home) / ".config/dstack/known_hosts";
  }
  return std::nullopt;
}

Result<std::optional<std::string>> KnownHosts::find(const std::string& authority) const {
  DS_TRY(const auto lines, read(m_path));
  for (const auto& [host, fingerprint] : lines) {
    if (host == authority) {
      return std::optional(fingerprint);
    }
  }
  return std::optional<std::string>();
}

Result<> KnownHosts::remember(const std::string& authority, const std::string& fingerprint) const {
  DS_CHECK(base::make_dirs(m_path.parent_path(), 0700));
  DS_TRY(const auto lock, base::FileLock::acquire(m_path.string() + ".lock"));
  DS_TRY(const auto lines, read(m_path));
  std::string text;
  for (const auto& [host, known] : lines) {
    if (host != authority) {
      text += host + " " + known + "\n";
    }
  }
  text += authority + " " + fingerprint + "\n";
  return base::write_file_atomic(m_path, text, {.mode = 0600, .force_mode = true});
}

}  // namespace dstack::client
