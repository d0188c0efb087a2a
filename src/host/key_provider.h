// The SGX key provider, from which a TDX host's KMS gets the key of its disk (spec/host.md section 1.8).
// Other platforms need none.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "host/layout.h"
#include "host/platform.h"

namespace dstack::host {

inline constexpr std::uint16_t k_default_key_provider_port = 3443;

// The flags as given.
struct KeyProviderFlags {
  std::optional<std::string> existing;  // ADDRESS:PORT
  std::optional<std::uint16_t> port;
  std::optional<std::string> source;  // directory with docker-compose.yaml
  bool no_start = false;
};

struct KeyProviderPlan {
  std::string address;  // "" = the platform has none
  std::uint16_t port = 0;
  // What install starts with docker compose; "" = somebody else runs it, or the platform needs none.
  std::string project;
  std::filesystem::path compose_file;
};

// Code::invalid_argument for flags that do not fit together or to the platform, Code::key_provider when there
// is nothing to start.
base::Result<KeyProviderPlan> plan_key_provider(PlatformKind platform, const KeyProviderFlags& flags,
                                                const Layout& layout);

// "dstack-kp-<port>".
std::string key_provider_project(std::uint16_t port);

// `docker compose up -d`, and `down` for a project that may be gone already. Code::key_provider with what
// docker says. `docker` is found among the tools unless it is given.
base::Result<> start_key_provider(const KeyProviderPlan& plan, const std::string& docker = {});
// False when docker is not installed, so that there is nothing to stop.
base::Result<bool> stop_key_provider(const std::string& project, const std::string& docker = {});

}  // namespace dstack::host
