#include "net/ready_set.h"

#include <sys/epoll.h>

#include <cerrno>
#include <system_error>

#include "base/format.h"
#include "base/log.h"

namespace dstack::net {

namespace {

using ErrorCode = boost::system::error_code;

// Events taken at once; timers, new connections and workers' results get their turn after them.
constexpr int k_batch = 64;

int new_epoll() {
  const int fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) {
    throw std::system_error(errno, std::generic_category(), "epoll_create1");
  }
  return fd;
}

}  // namespace

ReadySet::ReadySet(boost::asio::io_context& io) : m_epoll(io, new_epoll()) {}

base::Result<> ReadySet::add(int fd, ReadyHandler& handler) {
  return control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, handler);
}

base::Result<> ReadySet::add_writing(int fd, ReadyHandler& handler) {
  return control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, handler);
}

base::Result<> ReadySet::control(int operation, int fd, std::uint32_t events, ReadyHandler& handler) {
  epoll_event event{.events = events, .data = {.ptr = &handler}};
  if (::epoll_ctl(m_epoll.native_handle(), operation, fd, &event) != 0) {
    return base::fail_errno(base::Code::io, "cannot wait for a connection's socket", errno);
  }
  return {};
}

void ReadySet::remove(int fd, std::shared_ptr<ReadyHandler> handler) {
  // Closing alone would leave it in the set while a child that is being started still has the descriptor.
  ::epoll_ctl(m_epoll.native_handle(), EPOLL_CTL_DEL, fd, nullptr);
  if (m_telling) {
    m_removed.push_back(std::move(handler));
  }
}

void ReadySet::start() {
  m_epoll.async_wait(boost::asio::posix::descriptor_base::wait_read, [this](ErrorCode ec) {
    if (!ec) {
      tell();
      start();
    }
  });
}

void ReadySet::tell() {
  epoll_event events[k_batch];
  const int count = ::epoll_wait(m_epoll.native_handle(), events, k_batch, 0);
  m_telling = true;
  for (int i = 0; i < count; ++i) {
    try {
      static_cast<ReadyHandler*>(events[i].data.ptr)->on_ready(events[i].events);
    } catch (const std::exception& error) {
      // One connection's trouble (no memory, most likely) takes no event from the others; its deadline ends
      // it.
      base::log_error(base::format("on a connection: {}", error.what()));
    }
  }
  m_telling = false;
  m_removed.clear();
}

}  // namespace dstack::net
