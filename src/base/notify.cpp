#include "base/notify.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/fd.h"
#include "base/log.h"

namespace dstack::base {

namespace {

void send_state(const std::string& state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path == nullptr || (path[0] != '/' && path[0] != '@') || std::strlen(path) >= sizeof address.sun_path) {
    return;
  }
  std::memcpy(address.sun_path, path, std::strlen(path));
  if (path[0] == '@') {
    address.sun_path[0] = '\0';
  }
  const Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path));
  if (fd && ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                     reinterpret_cast<sockaddr*>(&address), length) < 0) {
    log_warn("cannot notify the service manager");
  }
}

}  // namespace

void notify_ready(std::string_view status) {
  send_state("READY=1\nSTATUS=" + escape_control(status));
}

void notify_stopping() {
  send_state("STOPPING=1");
}

void notify_failed(const Error& error, int error_number) {
  auto text = error.what();
  if (!error.fix.empty()) {
    text += "; " + error.fix;
  }
  send_state("STATUS=" + escape_control(text) + "\nERRNO=" + std::to_string(error_number));
}

std::vector<int> inherited_sockets() {
  const auto number = [](const char* name) {
    const char* text = std::getenv(name);
    long value = 0;
    if (text == nullptr || std::from_chars(text, text + std::strlen(text), value).ec != std::errc{}) {
      return 0L;
    }
    return value;
  };
  const bool ours = number("LISTEN_PID") == ::getpid();
  const long count = ours ? std::clamp(number("LISTEN_FDS"), 0L, 64L) : 0;
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
    ::unsetenv(name);
  }
  std::vector<int> out;
  for (int fd = 3; fd < 3 + count; ++fd) {
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) {
      out.push_back(fd);
    }
  }
  return out;
}

}  // namespace dstack::base
