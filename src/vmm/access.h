// Who may use the external API (spec/host.md section 4.6), and which names it may be called by.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "crypto/hash.h"
#include "net/http.h"
#include "vmm/config.h"

namespace dstack::vmm {

// Tokens, kept and compared as hashes in a time that does not depend on which one fits, if any.
class TokenSet {
 public:
  explicit TokenSet(const std::vector<std::string>& tokens);
  bool contains(std::string_view token) const;

 private:
  std::vector<crypto::Hash256> m_hashes;
};

// The token of "Authorization: Bearer ...", trimmed; nullopt without such a header.
std::optional<std::string_view> bearer_token(const net::Request& request);

class AccessGuard {
 public:
  // `exposed_ip` is where the API is served too; "" = nowhere.
  AccessGuard(const AuthConfig& auth, const ListenAddress& address, std::string exposed_ip = {});

  // nullopt lets the request pass; else the answer: 401, or 403 for a Host or Origin that a web page made up
  // (DNS rebinding, cross-site requests).
  std::optional<net::Response> check(const net::Request& request) const;

 private:
  bool known_host(std::string_view authority) const;
  bool authorized(const net::Request& request) const;

  bool m_enabled;
  TokenSet m_tokens;
  std::string m_ip;
  std::string m_exposed_ip;
};

}  // namespace dstack::vmm
