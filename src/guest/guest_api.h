// What the guest offers its host: Info and Shutdown under /api, behind the VM's bearer token
// (spec/host.md 4.20).
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "guest/agent.h"
#include "net/http.h"
#include "rpc/service.h"

namespace dstack::guest {

inline constexpr std::uint16_t k_guest_api_port = 8091;

class GuestApi {
 public:
  // `token` must not be empty. `shutdown` starts the orderly stop and returns at once.
  GuestApi(const Agent& agent, std::string token, std::function<void()> shutdown);
  // 401 without the token, 404 outside /api.
  net::Response handle(const net::Request& request) const;

 private:
  std::string m_token;
  rpc::Service m_service;
};

}  // namespace dstack::guest
