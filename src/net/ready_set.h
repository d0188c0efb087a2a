// Tells connections when their sockets are ready: an epoll set of its own inside of Asio's, since Asio asks
// the kernel anew for every wait, a system call that a request on a kept connection can do without.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <memory>
#include <vector>

#include "base/result.h"

namespace dstack::net {

// Owner of a socket in a ReadySet.
class ReadyHandler {
 public:
  // `events` are epoll's (EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR), edge-triggered: each change is
  // told once, so what is ready stays so until a read or write has found it not to be.
  virtual void on_ready(std::uint32_t events) = 0;

 protected:
  ~ReadyHandler() = default;
};

class ReadySet {
 public:
  // Throws std::system_error when the process has no descriptor left for the set.
  explicit ReadySet(boost::asio::io_context& io);

  // Tells `handler` when `fd` can be read or has been hung up.
  base::Result<> add(int fd, ReadyHandler& handler);
  // Also tells when `fd`, which is in the set, can be written; at once, if it can be.
  base::Result<> add_writing(int fd, ReadyHandler& handler);
  // To be called before `fd` is closed. `handler` lives on until no event that was already taken can name it.
  void remove(int fd, std::shared_ptr<ReadyHandler> handler);

  // Tells what is ready, again and again, while the io_context runs.
  void start();

 private:
  void tell();
  base::Result<> control(int operation, int fd, std::uint32_t events, ReadyHandler& handler);

  boost::asio::posix::stream_descriptor m_epoll;
  std::vector<std::shared_ptr<ReadyHandler>> m_removed;
  bool m_telling = false;
};

}  // namespace dstack::net
