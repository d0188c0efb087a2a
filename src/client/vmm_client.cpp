#include "client/vmm_client.h"

#include <arpa/inet.h>
#include <google/protobuf/empty.pb.h>

#include <algorithm>

#include "base/format.h"
#include "host/tls_identity.h"
#include "net/client.h"
#include "rpc/client.h"

namespace dstack::client {
namespace {

using base::Code;

constexpr std::chrono::milliseconds k_connect_timeout{5'000};
// CreateVm makes disks and starts QEMU before it answers.
constexpr std::chrono::milliseconds k_create_timeout{120'000};
// The VMM sends a heartbeat into a silent followed log every 60 s.
constexpr std::chrono::milliseconds k_follow_silence{150'000};
constexpr const char* k_token_fix =
    "give the VMM's token with --token or DSTACK_VMM_TOKEN; it is in the file vmm-auth-token of the "
    "installation";

// Addresses only: "127.0.0.1.example.net" is a name, and anybody's.
bool is_loopback_address(const std::string& host) {
  in_addr v4 = {};
  if (::inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return ntohl(v4.s_addr) >> 24 == 127;
  }
  in6_addr v6 = {};
  return ::inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace

bool is_local_endpoint(const net::Endpoint& endpoint) {
  return endpoint.kind == net::Endpoint::Kind::unix_socket || endpoint.host == "localhost" ||
         is_loopback_address(endpoint.host);
}

VmmClient::VmmClient(net::Endpoint endpoint, std::string token, TlsPin pin)
    : m_endpoint(std::move(endpoint)), m_token(std::move(token)), m_pin(std::move(pin)) {}

net::ClientOptions VmmClient::options(std::chrono::milliseconds timeout) const {
  net::ClientOptions out;
  out.connect_timeout = std::min(k_connect_timeout, m_limit);
  out.timeout = std::min(timeout, m_limit);
  out.max_body = 256 * 1024 * 1024;
  // The whole decision is the pin's: the certificate is self-signed.
  out.tls.insecure = true;
  *m_refused = false;
  out.tls.verify_leaf = [this](base::ByteView der) -> base::Result<> {
    const auto seen = host::certificate_fingerprint(der);
    *m_refused = seen != m_pin.fingerprint;
    if (m_pin.fingerprint.empty()) {
      return base::fail(
          Code::vmm_identity, "its certificate has the fingerprint " + seen,
          "compare it with \"dstackup status\" on the VMM's host, then add --fingerprint " + seen);
    }
    if (*m_refused) {
      return base::fail(Code::vmm_identity,
                        base::format("{} was expected, {} was seen", m_pin.fingerprint, seen),
                        "somebody may be in between; if the VMM was installed anew, compare with \"dstackup "
                        "status\" on its "
                        "host and give the new --fingerprint");
    }
    if (m_pin.on_proved) {
      m_pin.on_proved();
    }
    return {};
  };
  return out;
}

bool VmmClient::is_local() const {
  return is_local_endpoint(m_endpoint);
}

base::Error VmmClient::explain(base::Error error) const {
  const std::string where = m_endpoint.to_string();
  if (error.code == Code::connect_failed) {
    return {Code::vmm_unreachable, base::format("cannot reach the VMM at {}", where), error.what(),
            "see \"dstackup status\"; the VMM may not be running, or name another one with --host"};
  }
  if (*m_refused) {
    return {Code::vmm_identity,
            m_pin.fingerprint.empty()
                ? base::format("the VMM at {} is not known yet", where)
                : base::format("what answers at {} is not the VMM that was pinned", where),
            error.cause, error.fix};
  }
  if (error.code == Code::unauthorized) {
    return {Code::unauthorized, base::format("the VMM at {} refused the token", where), {}, k_token_fix};
  }
  return error;
}

base::Result<> VmmClient::check_token_is_safe() const {
  if (!m_token.empty() && m_endpoint.kind == net::Endpoint::Kind::tcp && !is_local()) {
    return base::fail(Code::insecure_token,
                      base::format("the token would go to {} unencrypted", m_endpoint.to_string()),
                      "forward the port over ssh and use --host http://127.0.0.1:PORT");
  }
  return {};
}

template <class Response, class Request>
base::Result<Response> VmmClient::call(const char* method, const Request& request,
                                       std::chrono::milliseconds timeout) const {
  DS_CHECK(check_token_is_safe());
  const rpc::Client client(net::Client(m_endpoint, options(timeout)), "/prpc", m_token);
  auto response = client.call<Response>(method, request);
  if (!response) {
    return base::fail(explain(std::move(response).error()));
  }
  return response;
}

base::Result<> VmmClient::act(const char* method, const std::string& id) const {
  ::vmm::Id request;
  request.set_id(id);
  DS_CHECK((call<google::protobuf::Empty>(method, request)));
  return {};
}

base::Result<::vmm::VersionResponse> VmmClient::version() const {
  return call<::vmm::VersionResponse>("Version", google::protobuf::Empty());
}

base::Result<::vmm::GetMetaResponse> VmmClient::meta() const {
  return call<::vmm::GetMetaResponse>("GetMeta", google::protobuf::Empty());
}

base::Result<std::vector<::vmm::VmInfo>> VmmClient::vms(bool brief) const {
  ::vmm::StatusRequest request;
  request.set_brief(brief);
  DS_TRY(const auto response, call<::vmm::StatusResponse>("Status", request));
  return std::vector<::vmm::VmInfo>(response.vms().begin(), response.vms().end());
}

base::Result<std::optional<::vmm::VmInfo>> VmmClient::info(const std::string& id) const {
  ::vmm::Id request;
  request.set_id(id);
  DS_TRY(const auto response, call<::vmm::GetInfoResponse>("GetInfo", request));
  if (!response.found() || !response.has_info()) {
    return std::nullopt;
  }
  return response.info();
}

base::Result<std::vector<::vmm::ImageInfo>> VmmClient::images() const {
  DS_TRY(const auto response, call<::vmm::ImageListResponse>("ListImages", google::protobuf::Empty()));
  return std::vector<::vmm::ImageInfo>(response.images().begin(), response.images().end());
}

base::Result<std::string> VmmClient::compose_hash(const ::vmm::VmConfiguration& configuration) const {
  DS_TRY(const auto response, call<::vmm::ComposeHash>("GetComposeHash", configuration));
  return response.hash();
}

base::Result<std::string> VmmClient::create(const ::vmm::VmConfiguration& configuration) const {
  DS_TRY(const auto response, call<::vmm::Id>("CreateVm", configuration, k_create_timeout));
  if (response.id().empty()) {
    return base::fail(Code::rpc, "the VMM created a VM without an id");
  }
  return response.id();
}

base::Result<> VmmClient::start(const std::string& id) const {
  return act("StartVm", id);
}
base::Result<> VmmClient::stop(const std::string& id) const {
  return act("StopVm", id);
}
base::Result<> VmmClient::shutdown(const std::string& id) const {
  return act("ShutdownVm", id);
}
base::Result<> VmmClient::remove(const std::string& id) const {
  return act("RemoveVm", id);
}

base::Result<> VmmClient::logs(const LogQuery& query,
                               const std::function<bool(std::string_view)>& on_chunk) const {
  DS_CHECK(check_token_is_safe());
  net::Request request;
  request.path = "/logs";
  request.query = base::format("id={}&follow={}&ansi=false&lines={}&ch={}", net::percent_encode(query.id),
                               query.follow, query.lines, net::percent_encode(query.channel));
  if (!m_token.empty()) {
    request.headers.set("Authorization", "Bearer " + m_token);
  }
  const net::Client http(m_endpoint, options(query.follow ? k_follow_silence : std::chrono::seconds(30)));
  auto response = http.send_streaming(request, on_chunk);
  if (!response) {
    return base::fail(explain(std::move(response).error()));
  }
  if (response->status == 401 || response->status == 403) {
    return base::fail(explain({Code::unauthorized, {}, {}, {}}));
  }
  if (response->status == 404) {
    return base::fail(Code::no_such_app, base::format("the VMM has no VM {}", query.id),
                      "see \"dstack apps\"");
  }
  if (response->status != 200) {
    return base::fail(Code::rpc, base::format("the VMM answered the request for logs with status {}: {}",
                                              response->status, response->body.substr(0, 300)));
  }
  return {};
}

}  // namespace dstack::client
