#include "net/server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cerrno>
#include <cstring>

#include "base/format.h"
#include "base/log.h"
#include "net/connection.h"
#include "net/listen.h"
#include "net/resolve.h"

namespace dstack::net {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ErrorCode = boost::system::error_code;
using Wait = boost::asio::posix::descriptor_base;

// Connections over the limit that wait for their 503 to be read.
constexpr std::size_t k_max_lingering = 64;
// Accepts in a row before the connections get their turn.
constexpr int k_accept_turn = 32;
constexpr milliseconds k_accept_pause{100};

struct Listener {
  Listener(boost::asio::io_context& io, ListenSocket made)
      : socket(std::move(made)), descriptor(io), retry(io) {}
  ListenSocket socket;
  std::optional<TlsContext> tls;
  boost::asio::posix::stream_descriptor descriptor;
  boost::asio::steady_timer retry;
};

}  // namespace

struct Server::Impl {
  // Declared first, destroyed last: everything else is bound to core.io.
  ServerCore core;
  std::list<Listener> listeners;
  boost::asio::steady_timer tick{core.io};
  boost::asio::steady_timer grace_timer{core.io};
  boost::asio::posix::stream_descriptor signals{core.io};
  std::unique_ptr<boost::asio::thread_pool> pool;
  milliseconds tick_period{500};
  milliseconds grace{5000};
  bool ticking = false;
  bool ran = false;
  std::thread thread;

  base::Result<std::uint16_t> add(ListenSocket socket, const std::optional<ServerTls>& tls) {
    std::optional<TlsContext> context;
    if (tls) {
      DS_TRY(context, TlsContext::server(*tls));
    }
    auto& listener = listeners.emplace_back(core.io, std::move(socket));
    listener.tls = std::move(context);
    listener.descriptor.assign(listener.socket.fd.release());
    return listener.socket.port;
  }

  void wait_accept(Listener& listener) {
    listener.descriptor.async_wait(Wait::wait_read, [this, &listener](ErrorCode ec) {
      if (!ec && !core.stopping) {
        accept_some(listener);
      }
    });
  }

  void accept_some(Listener& listener) {
    for (int i = 0; i < k_accept_turn; ++i) {
      SocketAddress address;
      address.length = sizeof address.storage;
      base::Fd fd(::accept4(listener.descriptor.native_handle(),
                            reinterpret_cast<sockaddr*>(&address.storage), &address.length,
                            SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
          base::log_warn(base::format("cannot accept a connection: {}", std::strerror(errno)));
          listener.retry.expires_after(k_accept_pause);
          listener.retry.async_wait([this, &listener](ErrorCode ec) {
            if (!ec && !core.stopping) {
              wait_accept(listener);
            }
          });
          return;
        }
        if (errno == EAGAIN) {
          break;
        }
        continue;  // the client has gone already, or a network error of its own: not ours
      }
      adopt(listener, std::move(fd), address);
    }
    wait_accept(listener);
  }

  bool is_full() const { return core.connections.size() - core.lingering >= core.options.max_connections; }

  // Ends connections from the oldest on, until there is room for one more.
  bool make_room(steady_clock::time_point now) {
    if (core.options.give_way_after == milliseconds(0)) {
      return false;
    }
    for (auto it = core.connections.begin(); it != core.connections.end() && is_full();) {
      const auto connection = *it++;
      if (!connection->served_since) {
        continue;
      }
      if (now - *connection->served_since < core.options.give_way_after) {
        break;
      }
      connection->close();
    }
    return !is_full();
  }

  void adopt(Listener& listener, base::Fd fd, const SocketAddress& address) {
    const bool tcp = address.family() == AF_INET || address.family() == AF_INET6;
    if (tcp) {
      const int on = 1;
      ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    const auto now = steady_clock::now();
    const bool full = is_full() && !make_room(now);
    if (full && core.lingering >= k_max_lingering) {
      return;
    }
    try {
      auto connection = std::make_shared<Connection>(core, std::move(fd), Peer{address.to_string(), {}},
                                                     listener.tls ? &*listener.tls : nullptr);
      connection->position = core.connections.insert(core.connections.end(), connection);
      if (full) {
        connection->refuse();
      } else {
        connection->served_since = now;
        connection->start();
      }
    } catch (const std::exception& error) {
      base::log_warn(base::format("cannot serve a connection: {}", error.what()));
    }
    start_tick();
  }

  void start_tick() {
    if (ticking || core.connections.empty()) {
      return;
    }
    ticking = true;
    tick.expires_after(tick_period);
    tick.async_wait([this](ErrorCode ec) {
      ticking = false;
      if (ec) {
        return;
      }
      const auto now = steady_clock::now();
      for (auto it = core.connections.begin(); it != core.connections.end();) {
        const auto connection = *it++;  // check_deadline() may take it out of the list
        connection->check_deadline(now);
      }
      start_tick();
    });
  }

  void close_listeners() {
    ErrorCode ignored;
    for (auto& listener : listeners) {
      listener.retry.cancel();
      if (listener.descriptor.is_open()) {
        listener.descriptor.close(ignored);
        remove_unix_socket(listener.socket);
      }
    }
  }

  void begin_stop() {
    if (core.stopping) {
      return;
    }
    core.stopping = true;
    close_listeners();
    ErrorCode ignored;
    signals.close(ignored);
    for (auto it = core.connections.begin(); it != core.connections.end();) {
      const auto connection = *it++;
      connection->wind_down();
    }
    grace_timer.expires_after(grace);
    grace_timer.async_wait([this](ErrorCode ec) {
      if (!ec) {
        while (!core.connections.empty()) {
          const auto connection = core.connections.front();
          connection->close();
        }
      }
    });
    end_if_done();
  }

  void end_if_done() {
    if (core.stopping && core.connections.empty()) {
      grace_timer.cancel();
      tick.cancel();
      core.io.stop();
    }
  }
};

Server::Server(Handler handler, ServerOptions options) : m_impl(std::make_unique<Impl>()) {
  auto& core = m_impl->core;
  core.handler = std::move(handler);
  core.options = std::move(options);
  core.on_connection_gone = [impl = m_impl.get()] { impl->end_if_done(); };
  const auto shortest =
      std::min({core.options.header_timeout, core.options.body_timeout, core.options.idle_timeout});
  m_impl->tick_period = std::clamp(shortest / 4, milliseconds(10), milliseconds(500));
}

Server::~Server() {
  stop();
  if (m_impl->thread.joinable()) {
    m_impl->thread.join();
  }
  m_impl->close_listeners();
  if (m_impl->pool) {
    m_impl->pool->stop();
    m_impl->pool->join();
  }
}

base::Result<std::uint16_t> Server::listen_tcp(const std::string& ip, std::uint16_t port,
                                               std::optional<ServerTls> tls, bool early) {
  DS_TRY(auto socket, listen_on_tcp(ip, port, early));
  return m_impl->add(std::move(socket), tls);
}

base::Result<> Server::listen_unix(const std::string& path, unsigned mode) {
  DS_TRY(auto socket, listen_on_unix(path, mode));
  DS_CHECK(m_impl->add(std::move(socket), std::nullopt));
  return {};
}

base::Result<> Server::listen_fd(int fd, std::optional<ServerTls> tls) {
  DS_TRY(auto socket, adopt_listener(base::Fd(fd)));
  DS_CHECK(m_impl->add(std::move(socket), tls));
  return {};
}

base::Result<> Server::run(std::chrono::milliseconds grace) {
  if (m_impl->listeners.empty() || m_impl->ran) {
    return base::fail(base::Code::internal, "a server was started without a listener, or twice");
  }
  m_impl->ran = true;
  m_impl->grace = grace;
  auto& core = m_impl->core;
  if (core.options.workers > 0) {
    m_impl->pool = std::make_unique<boost::asio::thread_pool>(core.options.workers);
    core.run_job = [pool = m_impl->pool.get()](std::function<void()> job) {
      boost::asio::post(*pool, std::move(job));
    };
  }
  core.ready.start();
  for (auto& listener : m_impl->listeners) {
    m_impl->wait_accept(listener);
  }
  while (!core.io.stopped()) {
    try {
      core.io.run();
    } catch (const std::exception& error) {
      // One connection's trouble (no memory, most likely) does not end the service.
      base::log_error(base::format("in the I/O loop: {}", error.what()));
    }
  }
  if (m_impl->pool) {
    m_impl->pool->stop();
    m_impl->pool->join();
  }
  return {};
}

void Server::stop() {
  boost::asio::post(m_impl->core.io, [impl = m_impl.get()] { impl->begin_stop(); });
}

void Server::start() {
  m_impl->thread = std::thread([this] {
    if (const auto result = run(); !result) {
      base::log_error(result.error().what());
    }
  });
}

void Server::stop_on_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  const int fd = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) {
    base::log_error(base::format("cannot wait for signals: {}", std::strerror(errno)));
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    return;
  }
  m_impl->signals.assign(fd);
  m_impl->signals.async_wait(Wait::wait_read, [impl = m_impl.get()](ErrorCode ec) {
    signalfd_siginfo info;
    if (!ec && ::read(impl->signals.native_handle(), &info, sizeof info) == sizeof info) {
      impl->begin_stop();
    }
  });
}

}  // namespace dstack::net
