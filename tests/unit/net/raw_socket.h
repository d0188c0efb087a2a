// A TCP or unix connection that sends exactly the bytes a test wants.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>
#include <string>
#include <string_view>

#include "base/fd.h"

namespace dstack::net::test {

class RawSocket {
 public:
  static RawSocket tcp(std::uint16_t port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return RawSocket(AF_INET, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  static RawSocket unix_path(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return RawSocket(AF_UNIX, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }

  bool connected() const { return m_connected; }
  bool send(std::string_view data) {
    while (!data.empty()) {
      const ssize_t count = ::send(m_fd.get(), data.data(), data.size(), MSG_NOSIGNAL);
      if (count <= 0) {
        return false;
      }
      data.remove_prefix(static_cast<std::size_t>(count));
    }
    return true;
  }
  void half_close() { ::shutdown(m_fd.get(), SHUT_WR); }
  void close() { m_fd.reset(); }
  int fd() const { return m_fd.get(); }

  // Reads until the peer closes or `timeout` passes.
  std::string read_all(std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
    m_closed = false;
    std::string out;
    while (step(out, timeout)) {
    }
    return out;
  }
  // Reads until `mark` has been seen `times` times.
  std::string read_until(std::string_view mark, int times = 1,
                         std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
    std::string out;
    while (count(out, mark) < times && step(out, timeout)) {
    }
    return out;
  }
  // Whether the last read ended because the peer closed.
  bool closed() const { return m_closed; }

  static int count(std::string_view text, std::string_view mark) {
    int n = 0;
    for (auto at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + mark.size())) {
      ++n;
    }
    return n;
  }

 private:
  RawSocket(int family, const sockaddr* address, socklen_t length)
      : m_fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)),
        m_connected(::connect(m_fd.get(), address, length) == 0) {}

  bool step(std::string& out, std::chrono::milliseconds timeout) {
    pollfd entry{m_fd.get(), POLLIN, 0};
    if (::poll(&entry, 1, static_cast<int>(timeout.count())) <= 0) {
      return false;
    }
    char buffer[16384];
    const ssize_t count = ::recv(m_fd.get(), buffer, sizeof buffer, 0);
    if (count <= 0) {
      m_closed = true;
      return false;
    }
    out.append(buffer, static_cast<std::size_t>(count));
    return true;
  }

  base::Fd m_fd;
  bool m_connected = false;
  bool m_closed = false;
};

}  // namespace dstack::net::test
