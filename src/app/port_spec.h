// --port (spec/host.md section 2.5): VM, HOST:VM, PROTO:HOST:VM or PROTO:ADDR:HOST:VM.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::app {

struct PortSpec {
  std::string protocol = "tcp";  // or "udp"
  std::string host_address = "127.0.0.1";
  std::uint16_t host_port = 0;  // 0 = to be picked
  std::uint16_t vm_port = 0;
  bool operator==(const PortSpec&) const = default;
};

// Code::bad_port. HOST may be empty, "auto" or "0" for "pick one".
base::Result<PortSpec> parse_port_spec(std::string_view text);

// Refuses two specs that claim one host port with the same protocol on overlapping addresses.
base::Result<> check_port_conflicts(const std::vector<PortSpec>& ports);

}  // namespace dstack::app
