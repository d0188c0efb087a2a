#include "app/port_spec.h"

#include <arpa/inet.h>

#include <charconv>
#include <optional>

#include "base/format.h"
#include "base/log.h"

namespace dstack::app {
namespace {

using base::Code;

constexpr const char* k_forms =
    "write VM, HOST:VM, PROTO:HOST:VM or PROTO:ADDRESS:HOST:VM, for example 18080:80";

std::optional<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return port;
}

bool is_any(const std::string& address) {
  return address == "0.0.0.0" || address == "::";
}

}  // namespace

base::Result<PortSpec> parse_port_spec(std::string_view text) {
  const std::string shown = base::escape_control(text.substr(0, 80));
  std::vector<std::string_view> parts;
  for (std::string_view rest = text;;) {
    const auto colon = rest.find(':');
    parts.push_back(rest.substr(0, colon));
    if (colon == std::string_view::npos) {
      break;
    }
    rest.remove_prefix(colon + 1);
  }
  if (parts.size() > 4) {
    return base::fail(Code::bad_port, base::format("port \"{}\" has too many parts", shown), k_forms);
  }

  PortSpec spec;
  const auto vm = parse_port(parts.back());
  if (!vm || *vm == 0) {
    return base::fail(Code::bad_port,
                      base::format("port \"{}\": the VM port is not a number from 1 to 65535", shown),
                      k_forms);
  }
  spec.vm_port = *vm;
  if (parts.size() >= 2) {
    const std::string_view host = parts[parts.size() - 2];
    if (!host.empty() && host != "auto") {
      const auto port = parse_port(host);
      if (!port) {
        return base::fail(
            Code::bad_port,
            base::format("port \"{}\": the host port is not a number from 1 to 65535 or auto", shown),
            k_forms);
      }
      spec.host_port = *port;
    }
  }
  if (parts.size() >= 3) {
    spec.protocol = parts[0];
    if (spec.protocol != "tcp" && spec.protocol != "udp") {
      return base::fail(Code::bad_port,
                        base::format("port \"{}\": the protocol is neither tcp nor udp", shown), k_forms);
    }
  }
  if (parts.size() == 4) {
    spec.host_address = parts[1];
    in_addr address{};
    if (inet_pton(AF_INET, spec.host_address.c_str(), &address) != 1) {
      return base::fail(Code::bad_port,
                        base::format("port \"{}\": the address is not an IPv4 address", shown),
                        "use 127.0.0.1, an address of this host, or 0.0.0.0 for all");
    }
  }
  return spec;
}

base::Result<> check_port_conflicts(const std::vector<PortSpec>& ports) {
  for (std::size_t i = 0; i < ports.size(); ++i) {
    for (std::size_t j = i + 1; j < ports.size(); ++j) {
      const PortSpec& a = ports[i];
      const PortSpec& b = ports[j];
      if (a.host_port != 0 && a.host_port == b.host_port && a.protocol == b.protocol &&
          (a.host_address == b.host_address || is_any(a.host_address) || is_any(b.host_address))) {
        return base::fail(Code::bad_port,
                          base::format("host port {}/{} is asked for twice", a.host_port, a.protocol),
                          "give each --port its own host port");
      }
    }
  }
  return {};
}

}  // namespace dstack::app
