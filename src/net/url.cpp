#include "net/url.h"

#include <algorithm>
#include <vector>

#include "base/format.h"

namespace dstack::net {

using base::Code;

namespace {

constexpr std::size_t k_max_url = 8192;

std::string_view until(std::string_view text, std::string_view stops) {
  return text.substr(0, std::min(text.find_first_of(stops), text.size()));
}

// RFC 3986 section 5.2.4 on a path that starts with '/'.
std::string without_dot_segments(std::string_view path) {
  std::vector<std::string_view> parts;
  bool directory = false;
  for (std::size_t at = 1; at <= path.size();) {
    const auto end = std::min(path.find('/', at), path.size());
    const auto part = path.substr(at, end - at);
    directory = part == "." || part == "..";
    if (part == ".." && !parts.empty()) {
      parts.pop_back();
    } else if (!directory) {
      parts.push_back(part);
    }
    at = end + 1;
  }
  std::string out;
  for (const auto part : parts) {
    out.append("/").append(part);
  }
  return directory || out.empty() ? out + "/" : out;
}

}  // namespace

base::Result<Url> Url::parse(std::string_view text) {
  if (text.size() > k_max_url) {
    return base::fail(Code::invalid_argument, "a URL is longer than 8192 characters");
  }
  const auto scheme_end = text.find("://");
  const auto scheme = scheme_end == std::string_view::npos ? std::string_view() : text.substr(0, scheme_end);
  const bool https = equal_ignoring_case(scheme, "https");
  if (!https && !equal_ignoring_case(scheme, "http")) {
    return base::fail(Code::invalid_argument, "a URL starts with neither https:// nor http://",
                      "write it as https://HOST/PATH");
  }
  std::string_view rest = text.substr(scheme_end + 3);
  const auto authority = until(rest, "/?#");
  rest.remove_prefix(authority.size());
  DS_TRY(const auto endpoint, Endpoint::parse((https ? "https://" : "http://") + std::string(authority)));
  Url out;
  out.https = https;
  out.host = endpoint.host;
  out.port = endpoint.port;
  rest = until(rest, "#");
  const auto path = until(rest, "?");
  rest.remove_prefix(path.size());
  const bool printable = std::ranges::all_of(path, [](unsigned char c) { return c > 0x20 && c != 0x7f; }) &&
                         std::ranges::all_of(rest, [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  if (!printable) {
    return base::fail(Code::invalid_argument, "a URL contains a space or a control character");
  }
  out.path = percent_decode(without_dot_segments(path.empty() ? "/" : path));
  out.query = rest.empty() ? "" : rest.substr(1);
  return out;
}

base::Result<Url> Url::resolve(std::string_view reference) const {
  const auto origin = [&](bool with_host) {
    return base::format("{}:{}", https ? "https" : "http",
                        with_host ? base::format("//{}{}{}:{}", host.contains(':') ? "[" : "", host,
                                                 host.contains(':') ? "]" : "", port)
                                  : "");
  };
  if (until(reference, "/?#").contains(':')) {
    return parse(reference);
  }
  if (reference.starts_with("//")) {
    return parse(origin(false) + std::string(reference));
  }
  if (reference.starts_with('/')) {
    return parse(origin(true) + std::string(reference));
  }
  const auto own = percent_encode(path);
  if (reference.empty() || reference.starts_with('?') || reference.starts_with('#')) {
    return parse(origin(true) + own + std::string(reference));
  }
  return parse(origin(true) + own.substr(0, own.rfind('/') + 1) + std::string(reference));
}

Endpoint Url::endpoint() const {
  Endpoint out;
  out.kind = https ? Endpoint::Kind::tls : Endpoint::Kind::tcp;
  out.host = host;
  out.port = port;
  return out;
}

std::string Url::to_string() const {
  const bool v6 = host.contains(':');
  const bool usual = port == (https ? 443 : 80);
  return base::format("{}://{}{}{}{}{}", https ? "https" : "http", v6 ? "[" : "", host, v6 ? "]" : "",
                      usual ? "" : base::format(":{}", port), percent_encode(path));
}

}  // namespace dstack::net
