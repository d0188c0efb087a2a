#include "host/host_lock.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>
#include <thread>

#include "base/format.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds k_sign_of_life{200};
constexpr milliseconds k_moment{20};

struct Name {
  sockaddr_un address = {};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

Result<Name> abstract_name(std::string_view text) {
  Name out;
  if (text.empty() || text.size() + 1 > sizeof out.address.sun_path) {
    return base::fail(Code::invalid_argument, "the name of a lock is too long");
  }
  out.address.sun_family = AF_UNIX;
  std::memcpy(out.address.sun_path + 1, text.data(), text.size());
  out.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  return out;
}

Result<base::Fd> stream_socket() {
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) {
    return base::fail_errno(Code::io, "cannot make a unix socket", errno);
  }
  return fd;
}

// An empty one: somebody has the name.
Result<base::Fd> try_take(const Name& name) {
  DS_TRY(auto fd, stream_socket());
  if (::bind(fd.get(), name.get(), name.length) != 0) {
    if (errno == EADDRINUSE) {
      return base::Fd();
    }
    return base::fail_errno(Code::io, "cannot take the lock of this host", errno);
  }
  // Whoever waits connects, learns who we are, and sees us end.
  if (::listen(fd.get(), 64) != 0) {
    return base::fail_errno(Code::io, "cannot take the lock of this host", errno);
  }
  return fd;
}

struct Holder {
  base::Fd connection;
  ucred who = {};
};

// Nothing when it is just coming or going, or has no room for one more who waits.
Result<std::optional<Holder>> find_holder(const Name& name) {
  Holder out;
  DS_TRY(out.connection, stream_socket());
  socklen_t size = sizeof out.who;
  if (::connect(out.connection.get(), name.get(), name.length) != 0 ||
      ::getsockopt(out.connection.get(), SOL_SOCKET, SO_PEERCRED, &out.who, &size) != 0) {
    return std::nullopt;
  }
  return std::optional(std::move(out));
}

// Until the holder's end of the connection goes, at most `limit`.
void wait_for_end(const Holder& holder, milliseconds limit) {
  pollfd event{holder.connection.get(), POLLIN, 0};
  (void)::poll(&event, 1, static_cast<int>(limit.count()));
}

}  // namespace

Result<HostLock> HostLock::acquire(const Options& options) {
  DS_TRY(const auto name, abstract_name(options.name));
  const auto end = Clock::now() + options.limit;
  std::optional<Holder> holder;
  while (true) {
    DS_TRY(auto fd, try_take(name));
    if (fd) {
      return HostLock(std::move(fd), {});
    }
    if (!holder) {
      DS_TRY(holder, find_holder(name));
    }
    const auto who = holder ? base::format("process {}", holder->who.pid) : std::string("a process");
    if (holder && holder->who.uid != 0 && holder->who.uid != ::geteuid()) {
      return HostLock({}, base::format("{} of user {}", who, holder->who.uid));
    }
    const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    if (left <= milliseconds(0)) {
      return base::fail(Code::locked,
                        base::format("another dstackup chooses addresses and ports on this host ({})", who),
                        "wait until it has finished and try again");
    }
    options.waiting(base::format("another dstackup ({}) chooses addresses and ports on this host", who));
    if (!holder) {
      std::this_thread::sleep_for(std::min(left, k_moment));
      continue;
    }
    const auto before = Clock::now();
    wait_for_end(*holder, std::min(left, k_sign_of_life));
    if (Clock::now() - before < std::min(left, k_sign_of_life)) {
      holder.reset();
    }
  }
}

}  // namespace dstack::host
