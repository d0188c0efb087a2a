#include "net/connection.h"

#include <sys/socket.h>

#include <boost/asio/post.hpp>
#include <cerrno>

#include "base/format.h"
#include "base/log.h"

namespace dstack::net {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ErrorCode = boost::system::error_code;
using Wait = boost::asio::posix::descriptor_base;

// How long to wait for the peer to take the last bytes and close: closing at once could reset the connection
// under a reply that is still on its way.
constexpr milliseconds k_linger{1000};
// Requests of one connection answered in a row before the others get their turn.
constexpr int k_turn = 16;
// What a client may send ahead while it is being answered.
constexpr std::size_t k_max_ahead = 256 * 1024;

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

Connection::Connection(ServerCore& core, base::Fd fd, Peer peer, const TlsContext* tls)
    : m_core(core),
      m_socket(core.io, fd.release()),
      m_peer(std::move(peer)),
      m_parser({core.options.max_header, core.options.max_body}) {
  if (tls != nullptr) {
    m_tls = std::make_unique<TlsSession>(*tls, "");
  }
}

Connection::~Connection() = default;

void Connection::start() {
  m_phase = m_tls ? Phase::handshake : Phase::idle;
  set_deadline(m_core.options.header_timeout);
  wait_readable();
}

void Connection::refuse() {
  if (m_tls) {
    return close();
  }
  respond_error(503, "too many connections");
}

void Connection::set_deadline(milliseconds from_now) {
  m_deadline = steady_clock::now() + from_now;
}

void Connection::check_deadline(steady_clock::time_point now) {
  if (m_phase == Phase::closed || now < m_deadline) {
    return;
  }
  const bool stuck = m_output_sent < m_output.size();  // the peer does not read
  switch (m_phase) {
    case Phase::handling:
      break;
    case Phase::streaming:
      if (stuck) {
        close();
      }
      break;
    case Phase::header:
    case Phase::body:
      if (stuck) {
        close();
      } else {
        respond_error(408, "the request took too long to arrive");
      }
      break;
    default:
      close();
      break;
  }
}

void Connection::wind_down() {
  switch (m_phase) {
    case Phase::handshake:
    case Phase::idle:
      if (m_output_sent >= m_output.size()) {
        close();
      }
      break;
    default:
      m_keep_alive = false;
      break;
  }
}

void Connection::close() {
  if (m_phase == Phase::closed) {
    return;
  }
  m_phase = Phase::closed;
  if (m_pump) {
    m_pump->cancel();
    m_pump.reset();
  }
  ErrorCode ignored;
  m_socket.close(ignored);
  if (m_counted_as_lingering) {
    --m_core.lingering;
  }
  const auto self = shared_from_this();
  m_core.connections.erase(position);
  m_core.on_connection_gone();
}

// Reading.

void Connection::wait_readable() {
  if (m_reading || m_end_of_input || m_phase == Phase::closed) {
    return;
  }
  m_reading = true;
  m_socket.async_wait(Wait::wait_read, [self = shared_from_this()](ErrorCode ec) {
    self->m_reading = false;
    if (self->m_phase == Phase::closed) {
      return;
    }
    if (ec) {
      self->close();
    } else {
      self->on_readable();
    }
  });
}

void Connection::on_readable() {
  const ssize_t count = ::recv(m_socket.native_handle(), m_core.buffer, sizeof m_core.buffer, 0);
  if (count < 0) {
    if (errno == EAGAIN || errno == EINTR) {
      return wait_readable();
    }
    return close();
  }
  if (count == 0) {
    return on_end_of_input();
  }
  const std::string_view data(m_core.buffer, static_cast<std::size_t>(count));
  if (m_phase == Phase::lingering) {
    return wait_readable();
  }
  if (!m_tls) {
    take_input(data);
  } else {
    const bool was_established = m_tls->established();
    std::string plain;
    const auto status = m_tls->receive(data, plain, m_output);
    flush();
    if (m_phase == Phase::closed) {
      return;
    }
    if (status == TlsSession::Status::failed) {
      base::log_debug(base::format("{}: {}", m_peer.address, m_tls->error().what()));
      return m_phase == Phase::handshake ? linger() : close();
    }
    if (!was_established && m_tls->established()) {
      m_peer.certificate_der = m_tls->peer_certificate_der();
      m_phase = Phase::idle;
      set_deadline(m_core.options.header_timeout);
    }
    if (!plain.empty()) {
      take_input(plain);
    }
    if (status == TlsSession::Status::closed && m_phase != Phase::closed && !m_end_of_input) {
      return on_end_of_input();
    }
  }
  if (m_phase == Phase::closed) {
    return;
  }
  if (reading_request() || m_phase == Phase::handshake || m_phase == Phase::lingering ||
      (m_phase == Phase::streaming && m_input.size() < k_max_ahead)) {
    wait_readable();
  }
}

void Connection::on_end_of_input() {
  m_end_of_input = true;
  // A complete request still gets its reply; anything less never becomes one.
  if (m_phase == Phase::handling || m_phase == Phase::streaming) {
    return;
  }
  if (reading_request() && (m_output_sent < m_output.size() || m_resume_posted)) {
    return;  // on_written() or resume() goes on
  }
  close();
}

void Connection::take_input(std::string_view plain) {
  if (!reading_request() || !m_input.empty() || m_output_sent < m_output.size()) {
    m_input.append(plain);
    if (reading_request() && m_output_sent >= m_output.size() && !m_resume_posted) {
      resume();
    }
    return;
  }
  parse(plain);
}

void Connection::resume() {
  const std::string data = std::exchange(m_input, {});
  parse(data);
}

void Connection::parse(std::string_view data) {
  for (int answered = 0; reading_request(); ++answered) {
    if (m_output_sent < m_output.size()) {
      break;  // on_written() comes back here
    }
    if (answered == k_turn && !data.empty()) {
      m_resume_posted = true;
      boost::asio::post(m_core.io, [self = shared_from_this()] {
        self->m_resume_posted = false;
        if (self->reading_request()) {
          self->resume();
        }
      });
      break;
    }
    data.remove_prefix(m_parser.feed(data));
    const auto state = m_parser.state();
    if (state == ParseState::failed) {
      return respond_error(m_parser.error_status(), m_parser.error_text());
    }
    if (state == ParseState::done) {
      dispatch();
      continue;
    }
    if (m_phase == Phase::idle && m_parser.started()) {
      m_phase = Phase::header;
      set_deadline(m_core.options.header_timeout);
    }
    if (m_phase == Phase::header && state == ParseState::body) {
      m_phase = Phase::body;
      set_deadline(m_core.options.body_timeout);
      if (m_core.options.admit) {
        Request head = m_parser.head();
        head.peer = m_peer;
        if (auto refusal = m_core.options.admit(head)) {
          m_keep_alive = false;
          m_head_only = false;
          m_phase = Phase::handling;
          return respond(std::move(*refusal));
        }
      }
      if (m_parser.expects_continue() && !m_continue_sent) {
        m_continue_sent = true;
        write("HTTP/1.1 100 Continue\r\n\r\n");
      }
    }
    break;
  }
  if (m_phase == Phase::closed || m_phase == Phase::lingering) {
    return;
  }
  m_input.assign(data);
  if (m_end_of_input && reading_request() && !m_resume_posted && m_output_sent >= m_output.size()) {
    linger();
  } else if (reading_request()) {
    wait_readable();
  }
}

// Answering.

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
  std::string out = write_head(response, options);
  if (!m_head_only && response.status != 204 && response.status != 304) {
    out += response.body;
  }
  write(out);
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
  write(write_head(response, options));
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
  ::shutdown(m_socket.native_handle(), SHUT_WR);
  if (!m_counted_as_lingering) {
    m_counted_as_lingering = true;
    ++m_core.lingering;
  }
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
    const ssize_t count = ::send(m_socket.native_handle(), m_output.data() + m_output_sent,
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
    m_socket.async_wait(Wait::wait_write, [self = shared_from_this()](ErrorCode ec) {
      self->m_writing = false;
      if (self->m_phase == Phase::closed) {
        return;
      }
      if (ec) {
        return self->close();
      }
      self->flush();
      if (!self->m_writing) {
        self->on_written();
      }
    });
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
