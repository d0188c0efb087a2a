// Which certificate a VMM on the network has: the pins that a user keeps.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"

namespace dstack::client {

// A file of lines "HOST:PORT sha256:HEX".
class KnownHosts {
 public:
  explicit KnownHosts(std::filesystem::path path) : m_path(std::move(path)) {}

  // $XDG_CONFIG_HOME/dstack/known_hosts, else ~/.config/dstack/known_hosts; nullopt without a home.
  static std::optional<std::filesystem::path> default_path();

  // nullopt when the host, or the file, is not there. Code::parse for a line that is not understood: a pin
  // must not be lost silently.
  base::Result<std::optional<std::string>> find(const std::string& authority) const;
  // Replaces what is there for the host. The file is the user's alone.
  base::Result<> remember(const std::string& authority, const std::string& fingerprint) const;

 private:
  std::filesystem::path m_path;
};

}  // namespace dstack::client
