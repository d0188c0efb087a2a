#include <algorithm>

#include "base/format.h"
#include "net/message.h"

namespace dstack::net {

namespace {

// These describe the framing, which the writer decides.
constexpr std::string_view k_own[] = {"Content-Length", "Transfer-Encoding", "Connection", "Date",
                                      "Keep-Alive"};

bool is_own(std::string_view name) {
  return std::ranges::any_of(k_own, [&](auto own) { return equal_ignoring_case(own, name); });
}

bool is_token(std::string_view text) {
  static constexpr std::string_view k_other = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           k_other.find(c) != std::string_view::npos;
  });
}

bool is_value(std::string_view text) {
  return std::ranges::all_of(text, [](unsigned char c) { return (c >= 0x20 && c != 0x7f) || c == '\t'; });
}

void append_line(std::string& out, std::string_view name, std::string_view value) {
  out += name;
  out += ": ";
  if (is_value(value)) {
    out += value;
  } else {
    // A value that would end the line is flattened: a header can never smuggle in another one.
    for (const char c : value) {
      out += is_value({&c, 1}) ? c : ' ';
    }
  }
  out += "\r\n";
}

}  // namespace

void append_head(std::string& out, const Response& response, const WriteResponse& options) {
  out += "HTTP/1.1 ";
  out += std::to_string(response.status);
  out += ' ';
  out += reason_phrase(response.status);
  out += "\r\n";
  for (const auto& [name, value] : response.headers.all()) {
    if (is_token(name) && !is_own(name)) {
      append_line(out, name, value);
    }
  }
  if (!options.app_version.empty()) {
    append_line(out, "X-App-Version", options.app_version);
  }
  if (!options.date.empty()) {
    out.append("Date: ").append(options.date).append("\r\n");
  }
  if (options.chunked) {
    out += "Transfer-Encoding: chunked\r\n";
  } else if (!options.until_close && response.status / 100 != 1 && response.status != 204 &&
             response.status != 304) {
    out.append("Content-Length: ").append(std::to_string(response.body.size())).append("\r\n");
  }
  out += options.keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
}

base::Result<std::string> write_request_head(const Request& request, const Endpoint& endpoint) {
  const auto bad = [](std::string message) {
    return base::fail(base::Code::invalid_argument, std::move(message));
  };
  if (!is_token(request.method)) {
    return bad(base::format("'{}' is not an HTTP method", request.method));
  }
  if (!request.path.starts_with('/')) {
    return bad(base::format("the path '{}' does not start with '/'", request.path));
  }
  if (!std::ranges::all_of(request.query, [](unsigned char c) { return c > 0x20 && c < 0x7f && c != '#'; })) {
    return bad("the query contains characters that must be escaped");
  }
  std::string out = request.method + ' ' + endpoint.base_path + percent_encode(request.path);
  if (!request.query.empty()) {
    out += '?' + request.query;
  }
  out += " HTTP/1.1\r\n";
  if (!request.headers.get("Host")) {
    if (endpoint.kind == Endpoint::Kind::unix_socket) {
      out += "Host: localhost\r\n";
    } else {
      const bool v6 = endpoint.host.find(':') != std::string::npos;
      out += base::format("Host: {}{}{}:{}\r\n", v6 ? "[" : "", endpoint.host, v6 ? "]" : "", endpoint.port);
    }
  }
  for (const auto& [name, value] : request.headers.all()) {
    // The value is not repeated: it may be a token.
    if (!is_token(name) || !is_value(value)) {
      return bad(base::format("the header '{}' contains characters that cannot be sent", name));
    }
    if (!is_own(name)) {
      append_line(out, name, value);
    }
  }
  if (!request.headers.get("User-Agent")) {
    out += "User-Agent: dstack/" DSTACK_VERSION "\r\n";
  }
  if (!request.body.empty() || (request.method != "GET" && request.method != "HEAD")) {
    append_line(out, "Content-Length", std::to_string(request.body.size()));
  }
  out += "Connection: close\r\n\r\n";
  return out;
}

}  // namespace dstack::net
