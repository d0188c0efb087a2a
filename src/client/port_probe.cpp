#include "client/port_probe.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/fd.h"

namespace dstack::client {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Polls over interruptions; the poll result.
int wait_for(int fd, short events, milliseconds timeout) {
  const auto end = steady_clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - steady_clock::now()).count();
    pollfd entry{fd, events, 0};
    const int ready = ::poll(&entry, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready >= 0 || errno != EINTR) {
      return ready;
    }
  }
}

}  // namespace

bool port_answers(const std::string& address, std::uint16_t port, milliseconds hold,
                  milliseconds connect_timeout) {
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(port);
  const std::string ip = address == "0.0.0.0" || address.empty() ? "127.0.0.1" : address;
  if (::inet_pton(AF_INET, ip.c_str(), &target.sin_addr) != 1) {
    return false;
  }
  const base::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) {
    return false;
  }
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&target), sizeof target) != 0) {
    int error = 0;
    socklen_t length = sizeof error;
    if (errno != EINPROGRESS || wait_for(fd.get(), POLLOUT, connect_timeout) <= 0 ||
        ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) {
      return false;
    }
  }
  const int ready = wait_for(fd.get(), POLLIN, hold);
  if (ready <= 0) {
    return ready == 0;
  }
  char byte = 0;
  return ::recv(fd.get(), &byte, 1, MSG_PEEK) > 0;
}

}  // namespace dstack::client
