#include "guest/guest_api.h"

#include "proto/guest_api.pb.h"
#include "proto/prpc.pb.h"

namespace dstack::guest {

using base::Result;

GuestApi::GuestApi(const Agent& agent, std::string token, std::function<void()> shutdown)
    : m_token(std::move(token)), m_service("/api") {
  m_service.on<prpc::Empty, guest_api::GuestInfo>(
      "Info", [&agent](const rpc::Call&, const auto&) -> Result<guest_api::GuestInfo> {
        DS_TRY(const auto app, agent.info());
        guest_api::GuestInfo info;
        info.set_version(DSTACK_VERSION);
        info.set_app_id(app.app_id());
        info.set_instance_id(app.instance_id());
        info.set_app_cert(app.app_cert());
        info.set_tcb_info(app.tcb_info());
        info.set_device_id(app.device_id());
        return info;
      });
  m_service.on<prpc::Empty, prpc::Empty>(
      "Shutdown", [shutdown = std::move(shutdown)](const rpc::Call&, const auto&) -> Result<prpc::Empty> {
        shutdown();
        return prpc::Empty();
      });
}

net::Response GuestApi::handle(const net::Request& request) const {
  const auto expected = "Bearer " + m_token;
  const auto given = request.headers.get("Authorization").value_or("");
  if (!base::equal_constant_time(base::as_bytes(given), base::as_bytes(expected))) {
    return net::Response::text(401, "unauthorized\n");
  }
  if (!m_service.owns(request.path)) {
    return net::Response::text(404, "not found\n");
  }
  return m_service.handle(request);
}

}  // namespace dstack::guest
