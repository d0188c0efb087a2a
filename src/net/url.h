// http and https URLs, as far as downloads need them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/http.h"

namespace dstack::net {

struct Url {
  bool https = false;
  std::string host;  // without brackets
  std::uint16_t port = 0;
  std::string path = "/";  // percent-decoded
  std::string query;       // raw, without '?'

  // A fragment is dropped; user names are refused.
  static base::Result<Url> parse(std::string_view text);
  // What a Location header of this URL's answer means: an absolute URL, "//host/path", "/path" or "path".
  base::Result<Url> resolve(std::string_view reference) const;
  Endpoint endpoint() const;
  std::string to_string() const;  // without the query, which may hold credentials
};

}  // namespace dstack::net
