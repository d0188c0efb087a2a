// Host names to addresses, without getaddrinfo: that one needs glibc's shared libraries at run time, which
// static programs in a guest do not have.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace dstack::net {

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;
  int family() const { return storage.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  // An IP address that only this host reaches.
  bool is_loopback() const;
  // "127.0.0.1:80", "[::1]:80".
  std::string to_string() const;
};

// A literal IPv4 or IPv6 address; Code::invalid_argument otherwise.
base::Result<SocketAddress> parse_ip(const std::string& ip, std::uint16_t port);

// Literal, "localhost", /etc/hosts, then DNS by /etc/resolv.conf (A before AAAA). Never empty on success.
base::Result<std::vector<SocketAddress>> resolve(const std::string& host, std::uint16_t port,
                                                 std::chrono::milliseconds timeout);

// For tests: addresses of `host` in the text of a hosts file.
std::vector<SocketAddress> find_in_hosts(const std::string& hosts_text, const std::string& host,
                                         std::uint16_t port);

}  // namespace dstack::net
