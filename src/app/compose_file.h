// Reads a docker compose file as far as deploy needs to know it. The text itself travels verbatim.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::app {

struct ComposePort {
  std::string protocol = "tcp";
  std::uint16_t target = 0;                // container port
  std::optional<std::uint16_t> published;  // port of the guest; absent = the runtime picks one
  bool operator==(const ComposePort&) const = default;
};

struct ComposeService {
  std::string name;
  std::string image;  // empty when the service has none
  bool builds = false;
  std::vector<ComposePort> ports;  // entries with ranges or ${variables} are left out
};

struct ComposeFile {
  std::vector<ComposeService> services;
  // What cannot work in the VM, because only this one file travels there: "service web: ...".
  std::vector<std::string> warnings;

  // Distinct images in order of appearance; those with ${variables} are left out.
  std::vector<std::string> images() const;
  // Does a service publish this port of the guest, as far as that can be known? True when any entry is
  // unknown.
  bool may_publish(std::uint16_t guest_port, std::string_view protocol) const;

  bool has_unknown_ports = false;  // ranges, variables, host network
};

constexpr std::size_t k_max_compose_file = 1024 * 1024;

// `name` stands in messages ("docker-compose.yaml:3:7: ..."). Refuses what is not YAML, duplicate keys,
// aliases that expand to more than 100,000 nodes, and a document that is not a mapping with `services`.
// Code::bad_compose_file.
base::Result<ComposeFile> parse_compose_file(std::string_view text, std::string_view name);

}  // namespace dstack::app
