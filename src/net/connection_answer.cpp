// What a connection says: answers, streams, errors. What it hears is in connection.cpp.
#include <sys/socket.h>

#include <boost/asio/post.hpp>
#include <cerrno>
#include <ctime>

#include "base/format.h"
#include "base/log.h"
#include "net/connection.h"

namespace dstack::net {

namespace {

using std::chrono::milliseconds;

// How long to wait for the peer to take the last bytes and close: closing at once could reset the connection
// under a reply that is still on its way.
constexpr milliseconds k_linger{1000};

}  // namespace

std::string_view ServerCore::date() {
  const std::time_t now = std::time(nullptr);
  if (now != m_date_second) {
    m_date_second = now;
    std::tm utc = {};
    gmtime_r(&now, &utc);
    char text[64];
    m_date.assign(text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc));
  }
  return m_date;
}

void Connection::dispatch() {
  m_keep_alive = m_parser.keep_alive() && !m_core.stopping;
  m_http11 = m_parser.http11();
  Request request = m_parser.take();
  m_head_only = request.method == "HEAD";
  m_continue_sent = false;
  request.peer = m_peer;
  m_phase = Phase::handling;
  const auto run = [](const Handler& handler, const Request& what) {
    try {
      return handler(what);
    } catch (const std::exception& error) {
      base::log_error(base::format("{} {} failed: {}", what.method, what.path, error.what()));
      return Response::text(500, "internal error\n");
    }
  };
  if (!m_core.run_job) {
    return respond(run(m_core.handler, request));
  }
  m_core.run_job([self = shared_from_this(), request = std::move(request), run]() mutable {
    auto response = run(self->m_core.handler, request);
    auto& io = self->m_core.io;
    boost::asio::post(io, [self = std::move(self), response = std::move(response)]() mutable {
      if (self->m_phase == Phase::handling) {
        self->respond(std::move(response));
        if (self->reading_request() && !self->m_resume_posted) {
          self->resume();
        }
      }
    });
  });
}

void Connection::respond(Response response) {
  if (m_core.stopping) {
    m_keep_alive = false;
  }
  if (response.stream) {
    return start_stream(std::move(response));
  }
  WriteResponse options;
  options.keep_alive = m_keep_alive;
  options.app_version = m_core.options.server_header;
  options.date = m_core.date();
  std::string sealed;
  std::string& out = m_tls ? sealed : m_output;
  append_head(out, response, options);
  if (!m_head_only && response.status != 204 && response.status != 304) {
    out += response.body;
  }
  m_tls ? write(sealed) : flush();
  finish_exchange();
}

void Connection::respond_error(int status, const std::string& text) {
  m_keep_alive = false;
  m_head_only = false;
  m_phase = Phase::handling;
  respond(Response::text(status, text + "\n"));
}

void Connection::start_stream(Response response) {
  if (m_core.pumps.size() >= StreamPump::k_max) {
    m_keep_alive = false;
    return respond(Response::text(503, "too many streams are open\n"));
  }
  if (m_head_only) {
    response.stream = nullptr;
    m_keep_alive = false;
    return respond(std::move(response));
  }
  m_chunked = m_http11;
  m_keep_alive = m_keep_alive && m_chunked;
  WriteResponse options;
  options.keep_alive = m_keep_alive;
  options.chunked = m_chunked;
  options.until_close = !m_chunked;
  options.app_version = m_core.options.server_header;
  options.date = m_core.date();
  m_phase = Phase::streaming;
  m_broken_stream = false;
  m_pump = std::make_shared<StreamPump>(m_core, weak_from_this(), std::move(response.stream));
  m_pump->position = m_core.pumps.insert(m_core.pumps.end(), m_pump);
  try {
    m_pump->start();
  } catch (const std::system_error& error) {
    base::log_error(base::format("cannot start a thread for a response stream: {}", error.what()));
    return close();
  }
  std::string head;
  append_head(head, response, options);
  write(head);
  // Notices a client that goes away.
  wait_readable();
  if (m_phase == Phase::streaming && m_output_sent >= m_output.size()) {
    m_pump->pull();
  }
}

void Connection::on_chunk(std::optional<std::string> chunk, bool broken) {
  if (m_phase != Phase::streaming) {
    return;
  }
  if (!chunk) {
    return end_stream(!broken);
  }
  if (chunk->empty()) {
    // After the client's FIN a silent stream has nobody to wait for it; one that still has data goes on,
    // since the client may have closed only its own direction.
    if (m_end_of_input || m_core.stopping) {
      return end_stream(true);
    }
    return m_pump->pull();
  }
  if (m_chunked) {
    write(base::format("{:x}\r\n{}\r\n", chunk->size(), *chunk));
  } else {
    write(*chunk);
  }
  if (m_phase == Phase::streaming && m_output_sent >= m_output.size()) {
    m_pump->pull();
  }
}

void Connection::end_stream(bool complete) {
  m_pump->cancel();
  m_pump.reset();
  if (!complete) {
    return close();  // without the final chunk, so that the client sees that something is missing
  }
  if (m_chunked) {
    write("0\r\n\r\n");
  }
  if (m_phase == Phase::closed) {
    return;
  }
  finish_exchange();
  if (reading_request() && !m_resume_posted) {
    resume();
  }
}

void Connection::finish_exchange() {
  if (m_phase == Phase::closed) {
    return;
  }
  if (!m_keep_alive) {
    m_phase = Phase::lingering;
    if (m_output_sent >= m_output.size()) {
      linger();
    }
    return;
  }
  m_phase = Phase::idle;
  if (m_output_sent >= m_output.size()) {
    set_deadline(m_core.options.idle_timeout);
  }
}

void Connection::linger() {
  m_phase = Phase::lingering;
  if (m_tls) {
    m_tls->close(m_output);
    flush();
    if (m_phase == Phase::closed) {
      return;
    }
  }
  m_input.clear();
  if (m_end_of_input) {
    return close();
  }
  ::shutdown(m_socket.get(), SHUT_WR);
  count_as_lingering();
  set_deadline(k_linger);
  wait_readable();
}

// Writing.

void Connection::write(std::string_view plain) {
  if (m_phase == Phase::closed) {
    return;
  }
  if (m_tls) {
    if (m_tls->send(plain, m_output) == TlsSession::Status::failed) {
      return close();
    }
  } else {
    m_output.append(plain);
  }
  flush();
}

void Connection::flush() {
  if (m_writing || m_phase == Phase::closed) {
    return;
  }
  while (m_output_sent < m_output.size()) {
    const ssize_t count = ::send(m_socket.get(), m_output.data() + m_output_sent,
                                 m_output.size() - m_output_sent, MSG_NOSIGNAL);
    if (count > 0) {
      m_output_sent += static_cast<std::size_t>(count);
      continue;
    }
    if (errno == EINTR) {
      continue;
    }
    if (errno != EAGAIN) {
      return close();
    }
    m_writing = true;
    set_deadline(m_core.options.body_timeout);
    if (const auto added = m_core.ready.add_writing(m_socket.get(), *this); !added) {
      base::log_warn(added.error().what());
      close();
    }
    return;
  }
  m_output.clear();
  m_output_sent = 0;
  if (m_output.capacity() > 64 * 1024) {
    m_output.shrink_to_fit();
  }
}

void Connection::on_written() {
  switch (m_phase) {
    case Phase::streaming:
      m_pump->pull();
      break;
    case Phase::lingering:
      linger();
      break;
    case Phase::idle:
      set_deadline(m_core.options.idle_timeout);
      resume();
      break;
    case Phase::header:
    case Phase::body:
      set_deadline(m_core.options.body_timeout);
      resume();
      break;
    default:
      break;
  }
}

}  // namespace dstack::net
