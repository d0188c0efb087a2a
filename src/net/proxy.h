// HTTP proxies, as the environment names them for most tools.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/result.h"
#include "net/http.h"
#include "net/url.h"

namespace dstack::net {

struct Proxy {
  Endpoint endpoint;          // spoken to without TLS
  std::string authorization;  // value of Proxy-Authorization, a secret; empty when there is none
};

// Value of an environment variable, or nullptr.
using Environment = std::function<const char*(const char* name)>;

// What https_proxy, http_proxy and no_proxy say for `url`; HTTPS_PROXY and NO_PROXY count too, HTTP_PROXY
// does not (a web server's child gets it from a request's header). nullopt: no proxy. Loopback never has one.
// no_proxy is "*", or hosts with all their subdomains, possibly with ports, between commas.
// Code::invalid_argument, without repeating the value, for what is not http://[USER:PASSWORD@]HOST:PORT.
base::Result<std::optional<Proxy>> proxy_for(const Url& url, const Environment& environment);

}  // namespace dstack::net
