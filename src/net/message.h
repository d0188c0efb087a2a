// HTTP/1.1 messages as bytes: incremental parsers and writers, without I/O. Used by the server and the client
// only.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/http.h"

namespace dstack::net {

struct MessageLimits {
  std::size_t max_header = 16 * 1024;
  std::size_t max_body = 16 * 1024 * 1024;
};

enum class ParseState { header, body, done, failed };

// Strict where leniency lets two parties read different messages: one Content-Length of digits only, never
// together with Transfer-Encoding, no folded lines, one Host.
class RequestParser {
 public:
  explicit RequestParser(MessageLimits limits);
  ~RequestParser();
  RequestParser(const RequestParser&) = delete;
  RequestParser& operator=(const RequestParser&) = delete;

  // Takes what it can from the front of `data` and returns how much. What it leaves must be the front of the
  // next call's data. Stops after one message.
  std::size_t feed(std::string_view data);
  ParseState state() const;
  // Has any byte of the current message arrived?
  bool started() const;
  // The following are valid from ParseState::body on.
  bool keep_alive() const;
  bool http11() const;
  bool expects_continue() const;
  // Valid when failed: the status to answer and one line of text.
  int error_status() const;
  const std::string& error_text() const;

  // The request without its body, valid from ParseState::body on.
  Request head() const;
  // The complete request; starts over for the next one.
  Request take();

 private:
  struct Impl;
  std::unique_ptr<Impl> m_impl;
};

class ResponseParser {
 public:
  // `no_body`: the reply to a HEAD request.
  ResponseParser(MessageLimits limits, bool no_body);
  ~ResponseParser();
  ResponseParser(const ResponseParser&) = delete;
  ResponseParser& operator=(const ResponseParser&) = delete;

  // As RequestParser::feed(). Interim (1xx) responses are skipped.
  std::size_t feed(std::string_view data);
  // The connection has ended: that completes a body without length, and is a failure anywhere else.
  void finish();
  ParseState state() const;
  const base::Error& error() const;

  // Status and headers, valid from ParseState::body on.
  const Response& head() const;
  // Before the first feed(): no limit on the whole body; the caller takes it as it comes.
  void unlimited_body();
  // The body bytes that have arrived since the last call.
  std::string take_body();

 private:
  struct Impl;
  std::unique_ptr<Impl> m_impl;
};

struct WriteResponse {
  bool keep_alive = true;
  bool chunked = false;          // a body of unknown length follows in chunks
  bool until_close = false;      // a body of unknown length follows up to the end of the connection
  std::string_view app_version;  // X-App-Version, unless empty
  std::string_view date;
};
// Status line and headers up to the empty line. The server's own headers (Content-Length, Connection, ...)
// win.
void append_head(std::string& out, const Response& response, const WriteResponse& options);

// Request line and headers; Code::invalid_argument for a method, header or target that cannot be written.
base::Result<std::string> write_request_head(const Request& request, const Endpoint& endpoint);

}  // namespace dstack::net
