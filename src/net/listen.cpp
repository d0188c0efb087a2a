#include "net/listen.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "base/format.h"

namespace dstack::net {

namespace {

using base::Code;
using base::fail;
using base::fail_errno;

constexpr int k_backlog = 1024;

std::unexpected<base::Error> cannot_listen(const std::string& where, int error) {
  const auto message = base::format("cannot listen on {}", where);
  switch (error) {
    case EADDRINUSE:
      return fail_errno(Code::address_in_use, message, error,
                        "choose another port, or stop the program that listens there (ss -ltnp names it)");
    case EACCES:
      return fail_errno(Code::net, message, error, "choose a port from 1024 up, or run as root");
    case EADDRNOTAVAIL:
      return fail_errno(Code::net, message, error,
                        "choose an address of this machine (ip address lists them)");
    case EAFNOSUPPORT:
      return fail_errno(Code::net, message, error, "choose an IPv4 address: this machine has no IPv6");
    default:
      return fail_errno(Code::net, message, error);
  }
}

// Does somebody accept connections on the socket file?
bool is_live(const sockaddr_un& address) {
  const base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return fd && (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
                errno == EAGAIN || errno == EACCES);
}

}  // namespace

base::Result<ListenSocket> listen_on_tcp(const std::string& ip, std::uint16_t port, bool early) {
  DS_TRY(auto address, parse_ip(ip, port));
  ListenSocket out;
  out.fd = base::Fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  if (early && out.fd) {
    // For IPv6 too: the option is one of the socket, not of the protocol.
    ::setsockopt(out.fd.get(), IPPROTO_IP, IP_FREEBIND, &on, sizeof on);
  }
  if (!out.fd || ::setsockopt(out.fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(out.fd.get(), address.get(), address.length) != 0 || ::listen(out.fd.get(), k_backlog) != 0) {
    return cannot_listen(address.to_string(), errno);
  }
  DS_TRY(const auto bound, bound_address(out.fd.get()));
  const auto text = bound.to_string();
  out.port = static_cast<std::uint16_t>(std::stoul(text.substr(text.rfind(':') + 1)));
  return out;
}

base::Result<ListenSocket> listen_on_unix(const std::string& path, unsigned mode) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path || path.find('\0') != std::string::npos) {
    return fail(Code::invalid_argument,
                base::format("the socket path '{}' is empty or longer than {} bytes", path,
                             sizeof address.sun_path - 1),
                "choose a shorter path");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  struct stat info = {};
  if (::lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) {
      return fail(Code::net,
                  base::format("cannot listen on unix:{}: a file that is no socket is there", path),
                  "remove it, or choose another path");
    }
    if (is_live(address)) {
      return fail(Code::address_in_use, base::format("cannot listen on unix:{}: another program does", path),
                  "stop that program, or choose another path");
    }
    ::unlink(path.c_str());
  }
  ListenSocket out;
  out.fd = base::Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // On the unbound socket first: the file then never exists with wider permissions.
  if (!out.fd || ::fchmod(out.fd.get(), mode) != 0 ||
      ::bind(out.fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(errno == EADDRINUSE ? Code::address_in_use : Code::net,
                      base::format("cannot listen on unix:{}", path), errno,
                      errno == ENOENT ? "create the directory first" : "");
  }
  if (::chmod(path.c_str(), mode) != 0 || ::listen(out.fd.get(), k_backlog) != 0 ||
      ::lstat(path.c_str(), &info) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    return fail_errno(Code::net, base::format("cannot listen on unix:{}", path), error);
  }
  out.unix_path = path;
  out.unix_inode = info.st_ino;
  return out;
}

base::Result<ListenSocket> adopt_listener(base::Fd fd) {
  int listening = 0;
  int type = 0;
  socklen_t length = sizeof listening;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0 || listening == 0 ||
      ::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_STREAM) {
    return fail(Code::net, base::format("file descriptor {} is not a listening stream socket", fd.get()),
                "pass one with systemd's ListenStream=");
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0 ||
      ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0) {
    return fail_errno(Code::net, "cannot use the inherited socket", errno);
  }
  ListenSocket out;
  out.fd = std::move(fd);
  return out;
}

base::Result<SocketAddress> bound_address(int fd) {
  SocketAddress out;
  out.length = sizeof out.storage;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&out.storage), &out.length) != 0) {
    return fail_errno(Code::net, base::format("cannot tell where file descriptor {} is bound", fd), errno,
                      "pass a socket with systemd's ListenStream=");
  }
  return out;
}

void remove_unix_socket(const ListenSocket& socket) {
  struct stat info = {};
  if (!socket.unix_path.empty() && ::lstat(socket.unix_path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode) &&
      info.st_ino == socket.unix_inode) {
    ::unlink(socket.unix_path.c_str());
  }
}

}  // namespace dstack::net
