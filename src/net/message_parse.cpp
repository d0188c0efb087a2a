// Beast's assertions abort on input that its own error paths handle (a last chunk that arrives byte by byte).
#define BOOST_DISABLE_ASSERTS

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <optional>

#include "base/format.h"
#include "net/message.h"

namespace dstack::net {

namespace {

namespace http = boost::beast::http;
using boost::beast::string_view;
using ErrorCode = boost::beast::error_code;

constexpr std::size_t k_max_fields = 100;
// A chunk's size line with its extensions, and the trailer.
constexpr std::size_t k_max_chunk_header = 4096;

std::string_view view(string_view text) {
  return {text.data(), text.size()};
}

bool digits_only(std::string_view text) {
  return !text.empty() && text.size() <= 19 &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// Of a name, an address or a port (RFC 3986 section 3.2.2).
bool is_host_character(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         std::string_view("-._~!$&'()*+,;=:[]%").find(c) != std::string_view::npos;
}

// What requests and responses have in common: header collection and the framing rules.
template <bool k_request>
class Sink : public http::basic_parser<k_request> {
 public:
  explicit Sink(MessageLimits limits) : m_limits(limits) {
    this->eager(true);
    this->header_limit(static_cast<std::uint32_t>(std::min<std::size_t>(limits.max_header, 1u << 30)));
    this->body_limit(limits.max_body);
  }

  std::size_t feed_some(std::string_view data) {
    m_data = data;
    ErrorCode ec;
    const std::size_t consumed = this->put(boost::asio::const_buffer(data.data(), data.size()), ec);
    if (ec == http::error::need_more) {
      ec = {};
    }
    if (!m_header_done) {
      // Beast's own limit counts only what it has not consumed yet.
      m_header_bytes += consumed;
      if (!ec && m_header_bytes + (data.size() - consumed) > m_limits.max_header) {
        ec = http::error::header_limit;
      }
    } else if (!ec && !this->is_done() && data.size() - consumed > k_max_chunk_header) {
      ec = http::error::bad_chunk;
    }
    if (ec) {
      set_error(ec);
    }
    return consumed;
  }

  void set_error(ErrorCode ec) {
    if (m_status != 0) {
      return;
    }
    if (ec == http::error::header_limit) {
      reject(431, "the header is too large");
    } else if (ec == http::error::body_limit) {
      reject(413, base::format("the body is larger than {} bytes", m_limits.max_body));
    } else if (ec == http::error::bad_version && names_other_version()) {
      reject(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    } else {
      reject(400, "malformed HTTP: " + ec.message());
    }
  }

  // Beast says bad_version also of a start line that ends wrongly.
  bool names_other_version() const {
    const auto line = m_data.substr(0, m_data.find("\r\n"));
    const auto at = line.rfind(" HTTP/");
    return line.size() < m_data.size() && at != std::string_view::npos && line.size() - at == 9 &&
           digits_only(line.substr(at + 6, 1)) && line[at + 7] == '.' && digits_only(line.substr(at + 8));
  }

  void reject(int status, std::string text) {
    if (m_status == 0) {
      m_status = status;
      m_text = std::move(text);
    }
  }

  ParseState parse_state() const {
    if (m_status != 0) {
      return ParseState::failed;
    }
    if (!m_header_done) {
      return ParseState::header;
    }
    return this->is_done() || m_complete ? ParseState::done : ParseState::body;
  }

  MessageLimits m_limits;
  std::string_view m_data;
  std::size_t m_header_bytes = 0;  // consumed
  std::size_t m_header_size = 0;   // start line and fields
  bool m_header_done = false;
  bool m_complete = false;
  bool m_has_host = false;
  int m_status = 0;
  std::string m_text;
  Headers m_headers;
  std::string m_body;
  int m_version = 11;

 protected:
  void stop(int status, std::string text, ErrorCode& ec) {
    reject(status, std::move(text));
    ec = http::error::bad_field;
  }

  void on_field_impl(http::field field, string_view name, string_view value, ErrorCode& ec) override {
    // Trailers are checked by the parser and dropped: nothing of ours reads them.
    if (m_header_done) {
      return;
    }
    // Beast's own limit is one for the start line and one for the fields.
    m_header_size += name.size() + value.size() + 4;
    if (m_header_size > m_limits.max_header) {
      ec = http::error::header_limit;
      return;
    }
    if (m_headers.all().size() >= k_max_fields) {
      return stop(431, base::format("more than {} header fields", k_max_fields), ec);
    }
    const auto end = m_data.find("\r\n", static_cast<std::size_t>(name.data() - m_data.data()));
    if (end != std::string_view::npos && end + 2 < m_data.size() &&
        (m_data[end + 2] == ' ' || m_data[end + 2] == '\t')) {
      return stop(400, "a header field continues on the next line", ec);
    }
    if (field == http::field::content_length) {
      if (m_headers.get("Content-Length") || !digits_only(view(value))) {
        return stop(400, "Content-Length must be one decimal number", ec);
      }
    } else if (field == http::field::transfer_encoding) {
      if (m_headers.get("Transfer-Encoding") || !equal_ignoring_case(view(value), "chunked") ||
          m_version < 11) {
        return stop(400, "the only Transfer-Encoding understood is 'chunked', once, in HTTP/1.1", ec);
      }
    } else if (k_request && field == http::field::host) {
      if (m_has_host || !std::ranges::all_of(view(value), is_host_character)) {
        return stop(400, m_has_host ? "more than one Host" : "the Host is no host", ec);
      }
      m_has_host = true;
    }
    m_headers.add(view(name), view(value));
  }

  void on_header_impl(ErrorCode& ec) override {
    m_header_done = true;
    // RFC 9112 section 3.2.
    if (k_request && m_version >= 11 && !m_has_host) {
      return stop(400, "HTTP/1.1 needs a Host", ec);
    }
    if (m_headers.get("Content-Length") && m_headers.get("Transfer-Encoding")) {
      stop(400, "both Content-Length and Transfer-Encoding", ec);
    }
  }

  void on_body_init_impl(const boost::optional<std::uint64_t>& length, ErrorCode&) override {
    // The announced length is a claim: only a small part of it is allocated before bytes arrive.
    m_body.reserve(static_cast<std::size_t>(std::min<std::uint64_t>(length.value_or(0), 256 * 1024)));
  }

  std::size_t on_body_impl(string_view body, ErrorCode&) override {
    m_body.append(body.data(), body.size());
    return body.size();
  }

  void on_chunk_header_impl(std::uint64_t, string_view, ErrorCode&) override {}

  std::size_t on_chunk_body_impl(std::uint64_t, string_view body, ErrorCode&) override {
    m_body.append(body.data(), body.size());
    return body.size();
  }

  void on_finish_impl(ErrorCode&) override { m_complete = true; }
};

class RequestSink : public Sink<true> {
 public:
  using Sink::Sink;
  std::string m_method;
  std::string m_path;
  std::string m_query;

 private:
  void on_request_impl(http::verb, string_view method, string_view target, int version,
                       ErrorCode& ec) override {
    m_version = version;
    m_header_size = method.size() + target.size() + 12;
    m_method.assign(method.data(), method.size());
    std::string_view rest = view(target);
    for (const std::string_view scheme : {"http://", "https://"}) {
      if (rest.size() > scheme.size() && equal_ignoring_case(rest.substr(0, scheme.size()), scheme)) {
        rest.remove_prefix(scheme.size());
        rest.remove_prefix(std::min(rest.size(), rest.find_first_of("/?")));
        break;
      }
    }
    const auto path = rest.substr(0, rest.find('?'));
    m_query = rest.substr(std::min(rest.size(), path.size() + 1));
    m_path = path.empty() ? "/" : percent_decode(path);
    if ((!m_path.starts_with('/') && m_path != "*") || m_path.find('\0') != std::string::npos) {
      stop(400, "the request target is not a path", ec);
    }
  }
  void on_response_impl(int, string_view, int, ErrorCode&) override {}
};

class ResponseSink : public Sink<false> {
 public:
  using Sink::Sink;
  int m_code = 0;

 private:
  void on_request_impl(http::verb, string_view, string_view, int, ErrorCode&) override {}
  void on_response_impl(int code, string_view, int version, ErrorCode&) override {
    m_code = code;
    m_version = version;
  }
};

}  // namespace

struct RequestParser::Impl {
  MessageLimits limits;
  std::optional<RequestSink> sink;
  bool started = false;
};

RequestParser::RequestParser(MessageLimits limits) : m_impl(std::make_unique<Impl>()) {
  m_impl->limits = limits;
  m_impl->sink.emplace(limits);
}

RequestParser::~RequestParser() = default;

std::size_t RequestParser::feed(std::string_view data) {
  std::size_t skipped = 0;
  if (!m_impl->started) {
    // RFC 9112 section 2.2: an empty line before a request is ignored.
    while (data.starts_with("\r\n")) {
      data.remove_prefix(2);
      skipped += 2;
    }
    if (data.empty() || data == "\r") {
      return skipped;
    }
  }
  m_impl->started = true;
  if (state() == ParseState::done || state() == ParseState::failed) {
    return skipped;
  }
  return skipped + m_impl->sink->feed_some(data);
}

ParseState RequestParser::state() const {
  return m_impl->sink->parse_state();
}
bool RequestParser::started() const {
  return m_impl->started;
}
bool RequestParser::keep_alive() const {
  return m_impl->sink->is_header_done() && m_impl->sink->keep_alive();
}
bool RequestParser::http11() const {
  return m_impl->sink->m_version >= 11;
}
bool RequestParser::expects_continue() const {
  const auto expect = m_impl->sink->m_headers.get("Expect");
  return expect && http11() && equal_ignoring_case(*expect, "100-continue");
}
int RequestParser::error_status() const {
  return m_impl->sink->m_status;
}
const std::string& RequestParser::error_text() const {
  return m_impl->sink->m_text;
}

Request RequestParser::head() const {
  const auto& sink = *m_impl->sink;
  Request request;
  request.method = sink.m_method;
  request.path = sink.m_path;
  request.query = sink.m_query;
  request.headers = sink.m_headers;
  return request;
}

Request RequestParser::take() {
  auto& sink = *m_impl->sink;
  Request request;
  request.method = std::move(sink.m_method);
  request.path = std::move(sink.m_path);
  request.query = std::move(sink.m_query);
  request.headers = std::move(sink.m_headers);
  request.body = std::move(sink.m_body);
  m_impl->sink.emplace(m_impl->limits);
  m_impl->started = false;
  return request;
}

struct ResponseParser::Impl {
  MessageLimits limits;
  bool no_body = false;
  std::optional<ResponseSink> sink;
  Response head;
  bool head_ready = false;
  base::Error error;

  void start() {
    sink.emplace(limits);
    sink->skip(no_body);
  }
  void note() {
    if (sink->m_status != 0 && error.message.empty()) {
      const auto code = sink->m_status == 413 ? base::Code::too_large : base::Code::http;
      error = base::Error{code, "the reply cannot be read", sink->m_text, {}};
    }
    if (sink->m_header_done && !head_ready && sink->m_code / 100 != 1) {
      head.status = sink->m_code;
      head.headers = sink->m_headers;
      head_ready = true;
    }
  }
};

ResponseParser::ResponseParser(MessageLimits limits, bool no_body) : m_impl(std::make_unique<Impl>()) {
  m_impl->limits = limits;
  m_impl->no_body = no_body;
  m_impl->start();
}

ResponseParser::~ResponseParser() = default;

std::size_t ResponseParser::feed(std::string_view data) {
  std::size_t total = 0;
  while (!data.empty() && state() != ParseState::done && state() != ParseState::failed) {
    const auto consumed = m_impl->sink->feed_some(data);
    total += consumed;
    data.remove_prefix(consumed);
    m_impl->note();
    if (m_impl->sink->is_done() && m_impl->sink->m_code / 100 == 1) {
      m_impl->start();
      continue;
    }
    break;
  }
  return total;
}

void ResponseParser::finish() {
  auto& sink = *m_impl->sink;
  if (state() == ParseState::done || state() == ParseState::failed) {
    return;
  }
  if (sink.is_header_done()) {
    ErrorCode ec;
    sink.put_eof(ec);
    if (!ec) {
      sink.m_complete = true;
      return;
    }
  }
  sink.reject(502, sink.m_header_bytes == 0 && !sink.got_some()
                       ? "the server closed the connection without an answer"
                       : "the server closed the connection in the middle of its answer");
  m_impl->note();
}

ParseState ResponseParser::state() const {
  const auto state = m_impl->sink->parse_state();
  return state == ParseState::done && m_impl->sink->m_code / 100 == 1 ? ParseState::header : state;
}
const base::Error& ResponseParser::error() const {
  return m_impl->error;
}
const Response& ResponseParser::head() const {
  return m_impl->head;
}
void ResponseParser::unlimited_body() {
  m_impl->sink->body_limit(boost::none);
}
std::string ResponseParser::take_body() {
  return std::exchange(m_impl->sink->m_body, {});
}

}  // namespace dstack::net
