#include <boost/asio/post.hpp>

#include "base/log.h"
#include "net/connection.h"

namespace dstack::net {

StreamPump::StreamPump(ServerCore& core, std::weak_ptr<Connection> connection, ChunkSource source)
    : m_core(core), m_connection(std::move(connection)), m_source(std::move(source)) {}

StreamPump::~StreamPump() {
  cancel();
  if (m_thread.joinable()) {
    m_thread.join();
  }
}

void StreamPump::start() {
  m_thread = std::thread([this] { work(); });
}

void StreamPump::pull() {
  m_wanted.release();
}

void StreamPump::cancel() {
  m_cancelled = true;
  m_wanted.release();
}

void StreamPump::work() {
  bool last = false;
  while (!last) {
    m_wanted.acquire();
    if (m_cancelled) {
      break;
    }
    std::optional<std::string> chunk;
    bool broken = false;
    try {
      chunk = m_source();
    } catch (const std::exception& error) {
      base::log_error(std::string("a response stream failed: ") + error.what());
      broken = true;
    }
    last = !chunk;
    boost::asio::post(m_core.io, [connection = m_connection, chunk = std::move(chunk), broken]() mutable {
      if (const auto target = connection.lock()) {
        target->on_chunk(std::move(chunk), broken);
      }
    });
  }
  // The I/O thread destroys this object, which joins this thread.
  boost::asio::post(m_core.io, [&core = m_core, where = position] { core.pumps.erase(where); });
}

}  // namespace dstack::net
