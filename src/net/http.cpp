#include "net/http.h"

#include <algorithm>
#include <charconv>

#include "base/format.h"

namespace dstack::net {

namespace {

using base::Code;
using base::fail;

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  const char l = lower(c);
  return l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
}

bool plain_text(std::string_view text) {
  return std::ranges::all_of(text, [](unsigned char c) { return c > 0x20 && c != 0x7f; });
}

}  // namespace

base::Result<Endpoint> Endpoint::parse(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return fail(Code::invalid_argument, base::format("'{}' is not an address: {}", text, why),
                "write it as http://HOST:PORT, https://HOST:PORT or unix:/PATH");
  };
  if (text.size() > 2048) {
    return fail(Code::invalid_argument, "an address is longer than 2048 characters");
  }
  Endpoint out;
  if (text.starts_with("unix:")) {
    out.kind = Kind::unix_socket;
    out.path = text.substr(5);
    if (out.path.starts_with("//")) {
      out.path.erase(0, 2);
    }
    if (!out.path.starts_with('/')) {
      return bad("a socket's path must be absolute");
    }
    if (out.path.find('\0') != std::string::npos) {
      return bad("a path cannot contain a NUL byte");
    }
    return out;
  }
  std::string_view rest = text;
  if (text.starts_with("http://")) {
    out.kind = Kind::tcp;
    out.port = 80;
    rest.remove_prefix(7);
  } else if (text.starts_with("https://")) {
    out.kind = Kind::tls;
    out.port = 443;
    rest.remove_prefix(8);
  } else {
    return bad("it starts with none of http://, https:// and unix:");
  }
  if (!plain_text(rest)) {
    return bad("it contains a space or a control character");
  }
  if (rest.find_first_of("?#") != std::string_view::npos) {
    return bad("it contains a query or a fragment");
  }
  std::string_view authority = rest.substr(0, rest.find('/'));
  std::string_view prefix = rest.substr(authority.size());
  while (prefix.ends_with('/')) {
    prefix.remove_suffix(1);
  }
  out.base_path = prefix;
  if (authority.find('@') != std::string_view::npos) {
    // Not repeated in the message: what stands before the '@' may be a password.
    return fail(Code::invalid_argument, "an address contains a user name or password",
                "give credentials by their own option");
  }
  std::string_view port;
  bool has_port = false;
  if (authority.starts_with('[')) {
    const auto end = authority.find(']');
    if (end == std::string_view::npos) {
      return bad("a ']' is missing");
    }
    out.host = authority.substr(1, end - 1);
    const auto tail = authority.substr(end + 1);
    if (!tail.empty() && !tail.starts_with(':')) {
      return bad("only a port may follow the ']'");
    }
    has_port = !tail.empty();
    port = has_port ? tail.substr(1) : tail;
  } else {
    const auto colon = authority.find(':');
    if (colon != std::string_view::npos && authority.find(':', colon + 1) != std::string_view::npos) {
      return bad("an IPv6 address must stand in [brackets]");
    }
    out.host = authority.substr(0, colon);
    has_port = colon != std::string_view::npos;
    port = has_port ? authority.substr(colon + 1) : std::string_view{};
  }
  if (out.host.empty() || out.host.size() > 253) {
    return bad("the host is missing or too long");
  }
  if (has_port) {
    unsigned number = 0;
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
    if (error != std::errc{} || end != port.data() + port.size() || number == 0 || number > 65535) {
      return bad("the port must be a number from 1 to 65535");
    }
    out.port = static_cast<std::uint16_t>(number);
  }
  return out;
}

std::string Endpoint::to_string() const {
  if (kind == Kind::unix_socket) {
    return "unix:" + path;
  }
  const bool v6 = host.find(':') != std::string::npos;
  return base::format("{}://{}{}{}:{}{}", kind == Kind::tls ? "https" : "http", v6 ? "[" : "", host,
                      v6 ? "]" : "", port, base_path);
}

void Headers::set(std::string_view name, std::string_view value) {
  std::erase_if(m_entries, [&](const auto& entry) { return equal_ignoring_case(entry.first, name); });
  add(name, value);
}

void Headers::add(std::string_view name, std::string_view value) {
  if (m_entries.empty()) {
    m_entries.reserve(8);
  }
  m_entries.emplace_back(name, value);
}

std::optional<std::string_view> Headers::get(std::string_view name) const {
  for (const auto& [key, value] : m_entries) {
    if (equal_ignoring_case(key, name)) {
      return value;
    }
  }
  return std::nullopt;
}

std::optional<std::string> Request::query_value(std::string_view key) const {
  std::string_view rest = query;
  while (!rest.empty()) {
    const auto pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    const auto equals = pair.find('=');
    if (percent_decode(pair.substr(0, equals), /*plus_is_space=*/true) == key) {
      return equals == std::string_view::npos
                 ? std::string{}
                 : percent_decode(pair.substr(equals + 1), /*plus_is_space=*/true);
    }
  }
  return std::nullopt;
}

Response Response::text(int status, std::string body) {
  Response response;
  response.status = status;
  response.headers.add("Content-Type", "text/plain; charset=utf-8");
  response.body = std::move(body);
  return response;
}

Response Response::json(int status, std::string body) {
  Response response;
  response.status = status;
  response.headers.add("Content-Type", "application/json");
  response.body = std::move(body);
  return response;
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 100:
      return "Continue";
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 204:
      return "No Content";
    case 301:
      return "Moved Permanently";
    case 302:
      return "Found";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Entity";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "";
  }
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return lower(x) == lower(y); });
}

std::string percent_decode(std::string_view text, bool plus_is_space) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_value(text[i + 1]) >= 0 && hex_value(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
      i += 2;
    } else {
      out += plus_is_space && text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

std::string percent_encode(std::string_view text) {
  static constexpr char k_digits[] = "0123456789ABCDEF";
  static constexpr std::string_view k_plain = "-._~/";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    const char l = lower(c);
    if ((l >= 'a' && l <= 'z') || (c >= '0' && c <= '9') || k_plain.find(c) != std::string_view::npos) {
      out += c;
    } else {
      out += '%';
      out += k_digits[u >> 4];
      out += k_digits[u & 15];
    }
  }
  return out;
}

}  // namespace dstack::net
