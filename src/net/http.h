// HTTP messages as values, shared by server and client.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::net {

// "unix:/path", "http://host:port" or "https://host:port" (IPv6 in brackets). A trailing path becomes
// base_path.
struct Endpoint {
  enum class Kind { unix_socket, tcp, tls };
  Kind kind = Kind::tcp;
  std::string path;  // unix_socket
  std::string host;  // tcp, tls; without brackets
  std::uint16_t port = 0;
  std::string base_path;  // "" or "/prefix", never a trailing slash

  static base::Result<Endpoint> parse(std::string_view text);
  std::string to_string() const;
};

class Headers {
 public:
  void set(std::string_view name, std::string_view value);  // replaces
  void add(std::string_view name, std::string_view value);  // appends, even when the name is there already
  std::optional<std::string_view> get(std::string_view name) const;  // case-insensitive, first match
  const std::vector<std::pair<std::string, std::string>>& all() const { return m_entries; }

 private:
  std::vector<std::pair<std::string, std::string>> m_entries;
};

// Who is at the other end of a connection.
struct Peer {
  std::string address;          // "127.0.0.1:4711" or "unix"
  base::Bytes certificate_der;  // leaf the TLS peer presented, chain-checked by the server; empty when none
};

struct Request {
  std::string method = "GET";
  std::string path = "/";  // percent-decoded, no query
  std::string query;       // raw, without '?'
  Headers headers;
  std::string body;
  Peer peer;

  // Decoded value of a query key; an existing key without '=' gives "".
  std::optional<std::string> query_value(std::string_view key) const;
};

// Pulls the next chunk of a streamed body; nullopt ends it. May block up to a second; returning an empty
// string means "nothing yet" and gives the server a chance to notice that the client has gone.
using ChunkSource = std::function<std::optional<std::string>()>;

struct Response {
  int status = 200;
  Headers headers;
  std::string body;
  ChunkSource stream;  // when set, `body` is ignored and chunked encoding is used

  static Response text(int status, std::string body);
  static Response json(int status, std::string body);
};

// The usual reason phrase, "" for a status that has none.
std::string_view reason_phrase(int status);

// ASCII-only, independent of the locale.
bool equal_ignoring_case(std::string_view a, std::string_view b);

// Malformed escapes stay as they are.
std::string percent_decode(std::string_view text, bool plus_is_space = false);
// Everything but RFC 3986 "unreserved" and '/' is escaped.
std::string percent_encode(std::string_view text);

}  // namespace dstack::net
