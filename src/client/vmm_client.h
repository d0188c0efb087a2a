// The VMM's API, typed (spec/host.md section 4.7).
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "net/client.h"
#include "net/http.h"
#include "proto/vmm_rpc.pb.h"

namespace dstack::client {

struct LogQuery {
  std::string id;
  std::uint32_t lines = 200;
  bool follow = false;
  std::string channel = "serial";  // or "stdout", "stderr"
};

// Which certificate a VMM that is reached over TLS must have; nothing else about it is looked at.
struct TlsPin {
  std::string fingerprint;          // "sha256:<hex>"; "" = the VMM is not known and not talked to
  std::function<void()> on_proved;  // called when a VMM has it, once per connection
};

// Errors: Code::vmm_unreachable when nothing answers, Code::unauthorized when the token is wrong,
// Code::vmm_identity when its certificate is not the pinned one, Code::insecure_token when a token would
// leave this host in clear text; the VMM's own otherwise.
class VmmClient {
 public:
  explicit VmmClient(net::Endpoint endpoint, std::string token = {}, TlsPin pin = {});

  const net::Endpoint& endpoint() const { return m_endpoint; }
  // No call takes longer than this.
  void set_limit(std::chrono::milliseconds limit) { m_limit = limit; }
  // The VMM runs on this host: unix socket or loopback address.
  bool is_local() const;

  base::Result<::vmm::VersionResponse> version() const;
  base::Result<::vmm::GetMetaResponse> meta() const;
  // Every VM, with its configuration unless brief.
  base::Result<std::vector<::vmm::VmInfo>> vms(bool brief = false) const;
  // nullopt: the VMM has no such VM.
  base::Result<std::optional<::vmm::VmInfo>> info(const std::string& id) const;
  base::Result<std::vector<::vmm::ImageInfo>> images() const;
  // What the VMM computes; 64 hex digits.
  base::Result<std::string> compose_hash(const ::vmm::VmConfiguration& configuration) const;

  base::Result<std::string> create(const ::vmm::VmConfiguration& configuration) const;
  base::Result<> start(const std::string& id) const;
  base::Result<> stop(const std::string& id) const;
  base::Result<> shutdown(const std::string& id) const;
  // Returns as soon as the VMM has begun.
  base::Result<> remove(const std::string& id) const;

  // Chunks as they come, until the end or until on_chunk returns false. Code::no_such_app for an unknown id.
  base::Result<> logs(const LogQuery& query, const std::function<bool(std::string_view)>& on_chunk) const;

 private:
  template <class Response, class Request>
  base::Result<Response> call(const char* method, const Request& request,
                              std::chrono::milliseconds timeout = std::chrono::seconds(30)) const;
  base::Result<> act(const char* method, const std::string& id) const;
  base::Result<> check_token_is_safe() const;
  base::Error explain(base::Error error) const;
  net::ClientOptions options(std::chrono::milliseconds timeout) const;

  net::Endpoint m_endpoint;
  std::string m_token;
  std::chrono::milliseconds m_limit = std::chrono::hours(24);
  TlsPin m_pin;
  // Set when the last handshake ended because of the pin. Shared by copies, like the pin.
  std::shared_ptr<std::atomic<bool>> m_refused = std::make_shared<std::atomic<bool>>(false);
};

// The VMM on the loopback interface or behind a unix socket.
bool is_local_endpoint(const net::Endpoint& endpoint);

}  // namespace dstack::client
