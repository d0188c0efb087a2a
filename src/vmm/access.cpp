#include "vmm/access.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "base/bytes.h"

namespace dstack::vmm {

namespace {

bool same_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

// "name:port" or "[v6]:port" without the port and brackets.
std::string_view host_of(std::string_view authority) {
  if (authority.starts_with("[")) {
    const auto close = authority.find(']');
    return close == std::string_view::npos ? std::string_view() : authority.substr(1, close - 1);
  }
  return authority.substr(0, authority.rfind(':'));
}

// IPv6 addresses have many spellings.
bool same_address(const std::string& a, const std::string& b) {
  in6_addr x{};
  in6_addr y{};
  for (const int family : {AF_INET, AF_INET6}) {
    if (::inet_pton(family, a.c_str(), &x) == 1 && ::inet_pton(family, b.c_str(), &y) == 1) {
      return std::memcmp(&x, &y, sizeof x) == 0;
    }
  }
  return false;
}

}  // namespace

TokenSet::TokenSet(const std::vector<std::string>& tokens) {
  for (const auto& token : tokens) {
    if (!token.empty()) {
      m_hashes.push_back(crypto::sha256(base::as_bytes(token)));
    }
  }
}

bool TokenSet::contains(std::string_view token) const {
  const auto hash = crypto::sha256(base::as_bytes(token));
  bool found = false;
  for (const auto& candidate : m_hashes) {
    found = base::equal_constant_time(hash, candidate) || found;
  }
  return found;
}

std::optional<std::string_view> bearer_token(const net::Request& request) {
  constexpr std::string_view k_scheme = "Bearer ";
  const auto header = request.headers.get("Authorization");
  if (!header || header->size() < k_scheme.size() ||
      !same_ignoring_case(header->substr(0, k_scheme.size()), k_scheme)) {
    return std::nullopt;
  }
  return base::trim(header->substr(k_scheme.size()));
}

AccessGuard::AccessGuard(const AuthConfig& auth, const ListenAddress& address, std::string exposed_ip)
    : m_enabled(auth.enabled), m_tokens(auth.tokens), m_ip(address.ip), m_exposed_ip(std::move(exposed_ip)) {}

bool AccessGuard::known_host(std::string_view authority) const {
  const std::string host(host_of(authority));
  in_addr v4{};
  if (same_ignoring_case(host, "localhost") || host == "::1" || host == m_ip ||
      same_address(host, m_exposed_ip)) {
    return true;
  }
  if (::inet_pton(AF_INET, host.c_str(), &v4) != 1) {
    return false;
  }
  // A wildcard address is reached by any of the machine's addresses, but never by a name that others control.
  return host.starts_with("127.") || m_ip == "0.0.0.0" || m_ip == "::";
}

bool AccessGuard::authorized(const net::Request& request) const {
  if (const auto admin = request.headers.get("X-Admin-Token"); admin && m_tokens.contains(*admin)) {
    return true;
  }
  const auto token = bearer_token(request);
  return token && m_tokens.contains(*token);
}

std::optional<net::Response> AccessGuard::check(const net::Request& request) const {
  if (!m_ip.empty() || !m_exposed_ip.empty()) {
    constexpr std::string_view k_scheme_end = "://";
    bool known = known_host(request.headers.get("Host").value_or(""));
    if (const auto origin = request.headers.get("Origin"); known && origin) {
      const auto at = origin->find(k_scheme_end);
      known = at != std::string_view::npos && known_host(origin->substr(at + k_scheme_end.size()));
    }
    if (!known) {
      return net::Response::text(403, "this server does not answer to that name\n");
    }
  }
  if (m_enabled && !authorized(request)) {
    net::Response response;
    response.status = 401;
    response.headers.set("WWW-Authenticate", "Bearer realm=\"dstack-vmm API\"");
    return response;
  }
  return std::nullopt;
}

}  // namespace dstack::vmm
