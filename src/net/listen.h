// Listening sockets: bound, listening, non-blocking, close-on-exec.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "net/resolve.h"

namespace dstack::net {

struct ListenSocket {
  base::Fd fd;
  std::uint16_t port = 0;  // tcp
  std::string unix_path;   // unix; removed by remove_unix_socket()
  std::uint64_t unix_inode = 0;
};

// `early`: the address need not be there yet (a network interface that comes up after the service).
base::Result<ListenSocket> listen_on_tcp(const std::string& ip, std::uint16_t port, bool early = false);
base::Result<ListenSocket> listen_on_unix(const std::string& path, unsigned mode);
// Takes a listening stream socket that somebody else made (systemd's LISTEN_FDS).
base::Result<ListenSocket> adopt_listener(base::Fd fd);
// Where a socket is bound.
base::Result<SocketAddress> bound_address(int fd);
// Removes the file if it still is the socket that was made.
void remove_unix_socket(const ListenSocket& socket);

}  // namespace dstack::net
