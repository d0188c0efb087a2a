#include "net/connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <boost/asio/post.hpp>
#include <cerrno>

#include "base/format.h"
#include "base/log.h"

namespace dstack::net {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Requests of one connection answered in a row before the others get their turn.
constexpr int k_turn = 16;
constexpr const char* k_refusal = "too many connections";
// What a client may send ahead while it is being answered.
constexpr std::size_t k_max_ahead = 64 * 1024;

}  // namespace

Connection::Connection(ServerCore& core, base::Fd fd, Peer peer, const TlsContext* tls)
    : m_core(core),
      m_socket(std::move(fd)),
      m_peer(std::move(peer)),
      m_parser({core.options.max_header, core.options.max_body}) {
  if (tls != nullptr) {
    m_tls = std::make_unique<TlsSession>(*tls, "");
  }
}

Connection::~Connection() = default;

bool Connection::watch() {
  if (const auto added = m_core.ready.add(m_socket.get(), *this); !added) {
    base::log_warn(added.error().what());
    close();
    return false;
  }
  return true;
}

void Connection::start() {
  if (!watch()) {
    return;
  }
  m_phase = m_tls ? Phase::handshake : Phase::idle;
  set_deadline(m_core.options.header_timeout);
  wait_readable();
}

void Connection::refuse() {
  m_refused = true;
  count_as_lingering();
  if (m_tls) {
    return start();
  }
  if (watch()) {
    respond_error(503, k_refusal);
  }
}

void Connection::count_as_lingering() {
  if (!m_counted_as_lingering) {
    m_counted_as_lingering = true;
    ++m_core.lingering;
  }
}

void Connection::set_deadline(milliseconds from_now) {
  // Deadlines are looked at a few times a second, so the clock that costs a fifth is good enough.
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  m_deadline =
      steady_clock::time_point(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec)) +
      from_now;
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
  const auto self = shared_from_this();
  m_core.ready.remove(m_socket.get(), self);
  m_socket.reset();
  if (m_counted_as_lingering) {
    --m_core.lingering;
  }
  m_core.connections.erase(position);
  m_core.on_connection_gone();
}

// Reading.

void Connection::on_ready(std::uint32_t events) {
  constexpr std::uint32_t k_ended = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
  m_hung_up = m_hung_up || (events & k_ended) != 0;
  m_readable = m_readable || (events & (EPOLLIN | k_ended)) != 0;
  if (m_writing && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
    m_writing = false;
    flush();
    if (!m_writing && m_phase != Phase::closed) {
      on_written();
    }
  }
  read_if_ready();
}

void Connection::read_if_ready() {
  if (m_reading && m_readable && m_phase != Phase::closed) {
    m_reading = false;
    on_readable();
  }
}

void Connection::wait_readable() {
  // With so much ahead something else is being waited for, and what ends that comes back here.
  if (m_reading || m_end_of_input || m_phase == Phase::closed || m_input.size() >= k_max_ahead) {
    return;
  }
  m_reading = true;
  if (m_readable) {
    // Not at once: the other connections get their turn.
    boost::asio::post(m_core.io, [self = shared_from_this()] { self->read_if_ready(); });
  }
}

void Connection::on_readable() {
  const ssize_t count = ::recv(m_socket.get(), m_core.buffer, sizeof m_core.buffer, 0);
  if (count < 0) {
    if (errno == EINTR) {
      return wait_readable();
    }
    if (errno == EAGAIN) {
      m_readable = false;
      return wait_readable();
    }
    return close();
  }
  // What was less than asked for was all.
  m_readable = m_hung_up || count == sizeof m_core.buffer;
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
      if (m_refused) {
        return respond_error(503, k_refusal);
      }
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
      m_phase == Phase::streaming) {
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

}  // namespace dstack::net
