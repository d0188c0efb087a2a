#include "net/client.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "base/format.h"
#include "net/message.h"
#include "net/resolve.h"
#include "net/tls.h"

namespace dstack::net {

namespace {

using base::Code;
using base::Error;
using base::fail;
using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::size_t k_max_header = 64 * 1024;

class Exchange {
 public:
  Exchange(const Endpoint& endpoint, const ClientOptions& options)
      : m_endpoint(endpoint),
        m_options(options),
        m_proxy(options.proxy && endpoint.kind != Endpoint::Kind::unix_socket ? &*options.proxy : nullptr),
        m_hop(m_proxy != nullptr ? m_proxy->endpoint : endpoint) {}

  base::Result<Response> run(const Request& request, const BodyReceiver* receiver) {
    DS_TRY(const std::string head, request_head(request));
    std::optional<TlsContext> tls;
    if (m_endpoint.kind == Endpoint::Kind::tls) {
      auto context = TlsContext::client(m_options.tls);
      if (!context) {
        return fail(std::move(context).error(), base::format("cannot connect to {}", m_endpoint.to_string()));
      }
      tls = std::move(*context);
    }
    const auto begin = steady_clock::now();
    m_deadline = begin + m_options.connect_timeout;
    DS_CHECK(connect());
    // One deadline for the whole exchange; a stream gets a new one with every chunk.
    m_deadline = begin + std::max(m_options.timeout, milliseconds(1));
    if (tls) {
      if (m_proxy != nullptr) {
        DS_CHECK(open_tunnel());
      }
      DS_CHECK(handshake(*tls));
    }
    // A server may answer (413, 401) and close before it has read everything: then the answer counts, not the
    // broken pipe.
    const auto sent = send(head + request.body);
    if (!sent && sent.error().code == Code::timeout) {
      return std::unexpected(sent.error());
    }
    auto response = receive(request.method == "HEAD", receiver);
    if (!response && !sent && response.error().code == Code::http) {
      return std::unexpected(sent.error());
    }
    return response;
  }

 private:
  std::string name() const { return m_endpoint.to_string(); }

  base::Result<std::string> request_head(const Request& request) const {
    if (m_proxy == nullptr || m_endpoint.kind == Endpoint::Kind::tls) {
      return write_request_head(request, m_endpoint);
    }
    // A proxy is told the whole URL (RFC 9112 section 3.2.2).
    Endpoint whole = m_endpoint;
    whole.base_path = m_endpoint.to_string();
    Request asked = request;
    if (!m_proxy->authorization.empty()) {
      asked.headers.set("Proxy-Authorization", m_proxy->authorization);
    }
    return write_request_head(asked, whole);
  }

  // CONNECT (RFC 9110 section 9.3.6): from here on bytes go to the server and come from it.
  base::Result<> open_tunnel() {
    Endpoint place = m_endpoint;
    place.base_path.clear();
    const std::string authority = place.to_string().substr(std::strlen("https://"));
    std::string head = base::format("CONNECT {} HTTP/1.1\r\nHost: {}\r\n", authority, authority);
    if (!m_proxy->authorization.empty()) {
      head += "Proxy-Authorization: " + m_proxy->authorization + "\r\n";
    }
    DS_CHECK(send_raw(head + "\r\n"));
    ResponseParser parser({k_max_header, 0}, /*no_body=*/true);
    while (parser.state() != ParseState::done) {
      DS_TRY(const std::string_view data, receive_raw());
      m_plain.append(data);
      m_plain.erase(0, parser.feed(m_plain));
      if (data.empty() || parser.state() == ParseState::failed) {
        return no_tunnel("it does not answer as an HTTP proxy does");
      }
    }
    const int status = parser.head().status;
    if (status / 100 != 2) {
      return no_tunnel(
          base::format("HTTP {}{}", status, status == 407 ? ": it wants a user name and a password" : ""));
    }
    // A TLS server waits for the client to begin.
    return m_plain.empty() ? base::Result<>() : no_tunnel("it sends data of its own");
  }

  std::unexpected<Error> no_tunnel(std::string cause) const {
    return fail(Error{
        Code::connect_failed, base::format("the proxy {} does not connect to {}", m_hop.to_string(), name()),
        std::move(cause),
        "check the environment variables https_proxy (http://USER:PASSWORD@HOST:PORT) and no_proxy"});
  }

  std::unexpected<Error> nothing_answers(const std::string& cause) const {
    return fail(Error{
        Code::connect_failed,
        base::format("nothing answers at {}{}", m_proxy != nullptr ? "the proxy " : "", m_hop.to_string()),
        cause,
        m_proxy != nullptr ? "check the environment variables https_proxy, http_proxy and no_proxy"
                           : "check the address, and that the service is running there"});
  }

  std::unexpected<Error> too_slow() const {
    return fail(Code::timeout,
                base::format("{} did not answer within {} ms", name(), m_options.timeout.count()));
  }

  std::unexpected<Error> broken(std::string cause) const {
    return fail(
        Error{Code::http, base::format("the exchange with {} broke off", name()), std::move(cause), {}});
  }

  // False when the deadline comes first.
  bool wait(short events) const {
    while (true) {
      const auto left = duration_cast<milliseconds>(m_deadline - steady_clock::now()).count();
      if (left <= 0) {
        return false;
      }
      pollfd entry{m_fd.get(), events, 0};
      const int count = ::poll(&entry, 1, static_cast<int>(std::min<long long>(left + 1, 60'000)));
      if (count > 0) {
        return true;
      }
      if (count < 0 && errno != EINTR) {
        return false;
      }
    }
  }

  base::Result<> connect() {
    std::vector<SocketAddress> addresses;
    if (m_endpoint.kind == Endpoint::Kind::unix_socket) {
      sockaddr_un address = {};
      address.sun_family = AF_UNIX;
      if (m_endpoint.path.size() >= sizeof address.sun_path) {
        return fail(Code::invalid_argument,
                    base::format("the socket path '{}' is too long", m_endpoint.path));
      }
      std::memcpy(address.sun_path, m_endpoint.path.c_str(), m_endpoint.path.size() + 1);
      SocketAddress entry;
      std::memcpy(&entry.storage, &address, sizeof address);
      entry.length = sizeof address;
      addresses.push_back(entry);
    } else {
      auto found = resolve(m_hop.host, m_hop.port, m_options.connect_timeout);
      if (!found) {
        return fail(std::move(found).error(), base::format("cannot connect to {}", m_hop.to_string()));
      }
      addresses = std::move(*found);
    }
    std::string cause;
    for (const auto& address : addresses) {
      cause = connect_to(address);
      if (cause.empty()) {
        return {};
      }
    }
    return nothing_answers(cause);
  }

  // Empty on success, else the reason.
  std::string connect_to(const SocketAddress& address) {
    m_fd = base::Fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!m_fd) {
      return std::strerror(errno);
    }
    if (address.family() != AF_UNIX) {
      const int on = 1;
      ::setsockopt(m_fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    while (::connect(m_fd.get(), address.get(), address.length) != 0) {
      if (errno == EINPROGRESS) {
        if (!wait(POLLOUT)) {
          return base::format("no answer within {} ms", m_options.connect_timeout.count());
        }
        int error = 0;
        socklen_t length = sizeof error;
        ::getsockopt(m_fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
        return error == 0 ? std::string{} : std::strerror(error);
      }
      if (errno == EAGAIN && steady_clock::now() < m_deadline) {
        // A unix socket whose queue is full cannot be polled for a free place.
        ::poll(nullptr, 0, 10);
      } else if (errno != EINTR) {
        return std::strerror(errno);
      }
    }
    return {};
  }

  base::Result<> handshake(const TlsContext& context) {
    m_tls = std::make_unique<TlsSession>(context, m_endpoint.host);
    std::string out;
    auto status = m_tls->start(out);
    while (true) {
      const auto sent = send_raw(out);
      out.clear();
      if (status != TlsSession::Status::ok) {
        return tls_failed();
      }
      DS_CHECK(sent);
      if (m_tls->established()) {
        return {};
      }
      DS_TRY(const std::string_view data, receive_raw());
      if (data.empty()) {
        return fail(Error{Code::tls, base::format("cannot connect to {}", name()),
                          "the server closed the connection during the TLS handshake",
                          "check that the address speaks https"});
      }
      status = m_tls->receive(data, m_plain, out);
    }
  }

  std::unexpected<Error> tls_failed() const {
    Error error = m_tls->error();
    return fail(std::move(error).wrap(base::format("no trustworthy connection to {}", name())));
  }

  base::Result<> send(std::string_view plain) {
    if (!m_tls) {
      return send_raw(plain);
    }
    std::string out;
    if (m_tls->send(plain, out) == TlsSession::Status::failed) {
      return tls_failed();
    }
    return send_raw(out);
  }

  base::Result<> send_raw(std::string_view data) {
    while (!data.empty()) {
      const ssize_t count = ::send(m_fd.get(), data.data(), data.size(), MSG_NOSIGNAL);
      if (count > 0) {
        data.remove_prefix(static_cast<std::size_t>(count));
      } else if (errno == EAGAIN) {
        if (!wait(POLLOUT)) {
          return too_slow();
        }
      } else if (errno != EINTR) {
        return broken(std::strerror(errno));
      }
    }
    return {};
  }

  // What has arrived, at least one byte; empty at the end of the connection. Valid until the next call.
  base::Result<std::string_view> receive_raw() {
    while (true) {
      const ssize_t count = ::recv(m_fd.get(), m_buffer.data(), m_buffer.size(), 0);
      if (count >= 0) {
        return std::string_view(m_buffer.data(), static_cast<std::size_t>(count));
      }
      if (errno == EAGAIN) {
        if (!wait(POLLIN)) {
          return too_slow();
        }
      } else if (errno != EINTR) {
        return broken(std::strerror(errno));
      }
    }
  }

  // Appends plaintext to m_plain. False at the end of the connection.
  base::Result<bool> receive_more() {
    DS_TRY(const std::string_view data, receive_raw());
    if (!m_tls) {
      m_plain.append(data);
      return !data.empty();
    }
    if (data.empty()) {
      // Without TLS's own end mark this may be somebody cutting the answer short.
      return broken("the connection ended without TLS's closing message");
    }
    std::string out;
    const auto status = m_tls->receive(data, m_plain, out);
    const auto sent = send_raw(out);
    if (status == TlsSession::Status::failed) {
      return tls_failed();
    }
    if (!sent && sent.error().code == Code::timeout) {
      return std::unexpected(sent.error());
    }
    return status == TlsSession::Status::ok;
  }

  base::Result<Response> receive(bool no_body, const BodyReceiver* receiver) {
    std::optional<bool> streaming;  // known with the head
    ResponseParser parser({k_max_header, m_options.max_body}, no_body);
    if (receiver != nullptr) {
      parser.unlimited_body();  // a stream has no total size
    }
    std::string body;
    while (true) {
      m_plain.erase(0, parser.feed(m_plain));
      const auto state = parser.state();
      if (state == ParseState::body || state == ParseState::done) {
        if (!streaming && receiver != nullptr) {
          DS_TRY(streaming, receiver->on_head(parser.head()));
        }
        std::string part = parser.take_body();
        if (streaming.value_or(false)) {
          m_deadline = steady_clock::now() + m_options.timeout;
          if (!part.empty()) {
            DS_CHECK(receiver->on_part(part));
          }
        } else {
          body += part;
          if (body.size() > m_options.max_body) {
            return fail(Code::too_large,
                        base::format("the reply of {} is larger than {} bytes", name(), m_options.max_body));
          }
        }
      }
      if (state == ParseState::done) {
        Response response = parser.head();
        response.body = std::move(body);
        return response;
      }
      if (state == ParseState::failed) {
        Error error = parser.error();
        return fail(std::move(error).wrap(base::format("no usable answer from {}", name())));
      }
      auto more = receive_more();
      if (!more) {
        return std::unexpected(std::move(more).error());
      }
      if (!*more && m_plain.empty()) {
        parser.finish();
      } else if (!*more) {
        m_plain.erase(0, parser.feed(m_plain));
        parser.finish();
      }
    }
  }

  const Endpoint& m_endpoint;
  const ClientOptions& m_options;
  const Proxy* m_proxy;
  const Endpoint& m_hop;  // what is connected to: the proxy or the endpoint
  base::Fd m_fd;
  std::unique_ptr<TlsSession> m_tls;
  steady_clock::time_point m_deadline;
  std::string m_plain;
  std::vector<char> m_buffer = std::vector<char>(64 * 1024);
};

}  // namespace

Client::Client(Endpoint endpoint, ClientOptions options)
    : m_endpoint(std::move(endpoint)), m_options(std::move(options)) {}

base::Result<Response> Client::send(const Request& request) const {
  return Exchange(m_endpoint, m_options).run(request, nullptr);
}

base::Result<Response> Client::receive(const Request& request, const BodyReceiver& receiver) const {
  return Exchange(m_endpoint, m_options).run(request, &receiver);
}

base::Result<Response> Client::send_streaming(const Request& request,
                                              const std::function<bool(std::string_view)>& on_chunk) const {
  std::optional<Response> stopped;
  Response seen;
  const BodyReceiver receiver{[&](const Response& head) -> base::Result<bool> {
                                seen = head;
                                return head.status == 200;
                              },
                              [&](std::string_view part) -> base::Result<> {
                                if (on_chunk(part)) {
                                  return {};
                                }
                                stopped = seen;
                                return fail(Code::http, "stopped");
                              }};
  auto response = receive(request, receiver);
  return stopped ? std::move(*stopped) : std::move(response);
}

}  // namespace dstack::net
