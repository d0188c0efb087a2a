#include <google/protobuf/empty.pb.h>

#include "base/format.h"
#include "proto/host_api.pb.h"
#include "vmm/api.h"

namespace dstack::vmm {

using base::Result;
using google::protobuf::Empty;
using rpc::Call;

namespace {

// Which VM a request comes from; the handlers are only reached by requests that come from one.
Result<std::string> caller(const VmManager& manager, const net::Request& request) {
  const auto token = bearer_token(request);
  auto id = token ? manager.vm_of_token(*token) : std::nullopt;
  if (!id) {
    return base::fail(base::Code::unauthorized, "no VM has this token");
  }
  return std::move(*id);
}

}  // namespace

HostApi::HostApi(VmManager& manager) : m_manager(manager), m_service("/api", {"HostApi."}) {
  m_service.on<Empty, host_api::HostInfo>("Info",
                                          [](const Call&, const Empty&) -> Result<host_api::HostInfo> {
                                            host_api::HostInfo out;
                                            out.set_name("dstack VMM");
                                            out.set_version(DSTACK_VERSION);
                                            return out;
                                          });
  m_service.on<host_api::Notification, Empty>(
      "Notify", [this](const Call& call, const host_api::Notification& request) -> Result<Empty> {
        DS_TRY(const auto id, caller(m_manager, call.http));
        DS_CHECK(m_manager.notify(id, request.event(), request.payload()));
        return Empty();
      });
}

net::Response HostApi::handle(const net::Request& request) {
  if (!caller(m_manager, request)) {
    net::Response response;
    response.status = 401;
    response.headers.set("WWW-Authenticate", "Bearer realm=\"dstack host API\"");
    return response;
  }
  return m_service.owns(request.path) ? m_service.handle(request) : net::Response::text(404, "Not found");
}

}  // namespace dstack::vmm
