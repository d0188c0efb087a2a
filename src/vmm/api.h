// The VM manager's two HTTP faces: the external API (/prpc, /logs) and the host API for guests (/api).
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "net/http.h"
#include "proto/vmm_rpc.pb.h"
#include "rpc/service.h"
#include "vmm/access.h"
#include "vmm/manager.h"

namespace dstack::vmm {

// "v0.1.0", for X-App-Version.
std::string version_header();

// Seconds as "1day 2h 3m 4s"; "0s" for zero, "never" for less.
std::string human_duration(std::int64_t seconds);

// spec/host.md sections 4.3 to 4.8.
class ExternalApi {
 public:
  explicit ExternalApi(VmManager& manager);
  net::Response handle(const net::Request& request);
  // The answer to whoever may not ask at all; wants only the head of a request.
  std::optional<net::Response> refuse(const net::Request& request) const;

 private:
  void add_lifecycle();
  void add_queries();
  ::vmm::VmInfo describe(const VmView& view, bool brief) const;
  net::Response logs(const net::Request& request);

  VmManager& m_manager;
  AccessGuard m_guard;
  rpc::Service m_service;
  // Shared with the streams themselves, which may outlive a request.
  std::shared_ptr<std::atomic<int>> m_followers = std::make_shared<std::atomic<int>>(0);
};

// spec/host.md section 4.20. Simulated guests have no vsock; a guest is known by the bearer token in its
// share.
class HostApi {
 public:
  explicit HostApi(VmManager& manager);
  net::Response handle(const net::Request& request);

 private:
  VmManager& m_manager;
  rpc::Service m_service;
};

}  // namespace dstack::vmm
