#include "net/proxy.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/format.h"

namespace dstack::net {

namespace {

using base::Code;

struct Variable {
  const char* name = nullptr;
  std::string_view value;
};

Variable first_of(const Environment& environment, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const char* value = environment(name); value != nullptr && *value != '\0') {
      return {name, base::trim(value)};
    }
  }
  return {};
}

bool is_loopback(std::string_view host) {
  return equal_ignoring_case(host, "localhost") || host.starts_with("127.") || host == "::1";
}

// Is `host` the `domain`, or below it?
bool belongs_to(std::string_view host, std::string_view domain) {
  while (domain.starts_with('.')) {
    domain.remove_prefix(1);
  }
  if (domain.empty() || host.size() < domain.size() ||
      !equal_ignoring_case(host.substr(host.size() - domain.size()), domain)) {
    return false;
  }
  return host.size() == domain.size() || host[host.size() - domain.size() - 1] == '.';
}

bool excepted(const Url& url, std::string_view list) {
  const std::string port = base::format(":{}", url.port);
  while (!list.empty()) {
    auto entry = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), entry.size() + 1));
    entry = base::trim(entry);
    if (entry == "*") {
      return true;
    }
    if (entry.ends_with(port)) {
      entry.remove_suffix(port.size());
    }
    if (entry.starts_with('[') && entry.ends_with(']')) {
      entry = entry.substr(1, entry.size() - 2);
    }
    if (belongs_to(url.host, entry)) {
      return true;
    }
  }
  return false;
}

}  // namespace

base::Result<std::optional<Proxy>> proxy_for(const Url& url, const Environment& environment) {
  const auto named = url.https ? first_of(environment, {"https_proxy", "HTTPS_PROXY"})
                               : first_of(environment, {"http_proxy"});
  if (named.value.empty() || is_loopback(url.host) ||
      excepted(url, first_of(environment, {"no_proxy", "NO_PROXY"}).value)) {
    return std::nullopt;
  }
  constexpr std::string_view k_scheme = "http://";
  std::string_view rest = named.value;
  if (equal_ignoring_case(rest.substr(0, k_scheme.size()), k_scheme)) {
    rest.remove_prefix(k_scheme.size());
  }
  const bool other_scheme = rest.find("://") != std::string_view::npos;
  while (rest.ends_with('/')) {
    rest.remove_suffix(1);
  }
  Proxy proxy;
  if (const auto at = rest.rfind('@'); at != std::string_view::npos) {
    const std::string user = percent_decode(rest.substr(0, at));
    proxy.authorization = "Basic " + base::to_base64(base::as_bytes(user));
    rest.remove_prefix(at + 1);
  }
  auto endpoint = Endpoint::parse("http://" + std::string(rest));
  if (other_scheme || !endpoint || !endpoint->base_path.empty()) {
    return base::fail(Code::invalid_argument,
                      base::format("the environment variable {} does not name a proxy", named.name),
                      "write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT; only proxies that are "
                      "spoken to over http are supported");
  }
  proxy.endpoint = std::move(*endpoint);
  return proxy;
}

}  // namespace dstack::net
