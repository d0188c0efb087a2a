#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "vmm/request.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::fail_errno;
using base::Fd;
using base::Result;

namespace {

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

std::optional<Address> make_address(const std::string& ip, std::uint16_t port) {
  Address out;
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (::inet_pton(AF_INET, ip.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    std::memcpy(&out.storage, &v4, sizeof v4);
    out.size = sizeof v4;
    return out;
  }
  if (::inet_pton(AF_INET6, ip.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    std::memcpy(&out.storage, &v6, sizeof v6);
    out.size = sizeof v6;
    return out;
  }
  return std::nullopt;
}

bool wildcard(const std::string& address) {
  return address == "0.0.0.0" || address == "::";
}

}  // namespace

bool ports_overlap(const PortForward& a, const PortForward& b) {
  return a.protocol == b.protocol && a.host_port == b.host_port &&
         (a.address == b.address || wildcard(a.address) || wildcard(b.address));
}

namespace {

// The first port that anybody may bind.
std::uint16_t first_open_port() {
  const auto text = base::read_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", 64).value_or("");
  std::uint16_t first = 1024;
  std::from_chars(text.data(), text.data() + text.size(), first);
  return first;
}

}  // namespace

Result<> check_port_free(const PortForward& port) {
  const auto name = base::format("{} port {} on {}", port.protocol, port.host_port, port.address);
  const auto address = make_address(port.address, port.host_port);
  if (!address) {
    return fail(Code::vm_request, base::format("{} is not an IP address", port.address));
  }
  if (const auto first = first_open_port(); port.host_port < first) {
    return fail(
        Code::vm_port_taken, base::format("{} needs a privilege that VMs do not have", name),
        base::format("choose a port from {} on, or lower net.ipv4.ip_unprivileged_port_start", first));
  }
  const bool tcp = port.protocol == "tcp";
  const Fd fd(::socket(address->storage.ss_family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0));
  if (!fd) {
    return fail_errno(Code::vm_start, base::format("cannot test {}", name), errno);
  }
  if (tcp) {
    // As QEMU binds: connections of an earlier VM that are still closing do not count.
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  }
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address->storage), address->size) != 0 ||
      (tcp && ::listen(fd.get(), 1) != 0)) {
    const int error = errno;
    if (error == EADDRINUSE) {
      return fail(Code::vm_port_taken, base::format("{} is in use by another program", name),
                  base::format("choose another host port, or stop what listens on {}", port.host_port));
    }
    return fail_errno(Code::vm_port_taken, base::format("{} cannot be used", name), error,
                      error == EACCES ? "choose a port above 1023" : "check the host address");
  }
  return {};
}

Result<std::uint16_t> pick_loopback_port() {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto address = make_address("127.0.0.1", 0);
  auto* raw = reinterpret_cast<sockaddr*>(&address->storage);
  if (!fd || ::bind(fd.get(), raw, address->size) != 0 || ::getsockname(fd.get(), raw, &address->size) != 0) {
    return fail_errno(Code::vm_start, "no free port for the guest's agent", errno);
  }
  sockaddr_in bound{};
  std::memcpy(&bound, &address->storage, sizeof bound);
  return ntohs(bound.sin_port);
}

}  // namespace dstack::vmm
