// TCP ports of an installation: which are free, who holds a busy one (spec/host.md section 1.5).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace dstack::host {

// The VMM's port policy as rendered: VMs may be published on these host ports only, so free ones are picked
// there.
inline constexpr std::uint16_t k_first_host_port = 1;
inline constexpr std::uint16_t k_last_host_port = 20000;

// True when address:port can be bound right now. Code::net when that cannot be found out.
base::Result<bool> port_is_free(const std::string& ip, std::uint16_t port);

// "nginx (pid 812)" for the process that listens on the TCP port; nullopt when it cannot be told.
std::optional<std::string> who_listens(std::uint16_t port, const std::filesystem::path& proc = "/proc");

using PortTest = std::function<base::Result<bool>(const std::string& ip, std::uint16_t port)>;

struct PlannedPort {
  std::string flag;  // "--dashboard-port"
  std::string ip;
  std::uint16_t port = 0;
  bool ours = false;  // our own running service holds it: not tested
};
// Port 0, and two flags with one port on overlapping addresses (Code::port_conflict, names both flags).
base::Result<> check_port_numbers(const std::vector<PlannedPort>& plan);
// Those that something else holds already.
struct BusyPort {
  PlannedPort port;
  std::string holder;  // as from who_listens(), "" = unknown
};
base::Result<std::vector<BusyPort>> find_busy_ports(const std::vector<PlannedPort>& plan,
                                                    const PortTest& is_free = port_is_free,
                                                    const std::filesystem::path& proc = "/proc");

// The first free port on 127.0.0.1 from `first` up to k_last_host_port that is not in `taken`.
base::Result<std::uint16_t> pick_host_port(std::uint16_t first, const std::vector<std::uint16_t>& taken,
                                           const PortTest& is_free = port_is_free);

}  // namespace dstack::host
