#include "attest/identity.h"

#include <algorithm>

#include "base/format.h"

namespace dstack::attest {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::Result;

bool any_nonzero(const Register& value) {
  return std::ranges::any_of(value, [](std::uint8_t byte) { return byte != 0; });
}

// The payload of the one event of this name; `sealed` events must come before boot-mr-done.
Result<Bytes> payload_of(std::span<const RuntimeEvent> events, std::string_view name, bool sealed) {
  const RuntimeEvent* found = nullptr;
  bool boot_done = false;
  for (const auto& event : events) {
    if (event.event == name) {
      if (found != nullptr) {
        return fail(Code::evidence_replay, base::format("the event log has '{}' twice", name));
      }
      if (boot_done && sealed) {
        return fail(Code::evidence_replay, base::format("the event log has '{}' behind boot-mr-done", name));
      }
      found = &event;
    }
    boot_done = boot_done || event.event == k_event_boot_mr_done;
  }
  return found != nullptr ? found->payload : Bytes{};
}

}  // namespace

Result<Identity> identity_of(const TdReport& report, std::span<const RuntimeEvent> events, ByteView ppid,
                             ByteView os_image_hash, MrMode mode) {
  const auto ready = std::ranges::find(events, k_event_system_ready, &RuntimeEvent::event);
  const auto launch = events.first(static_cast<std::size_t>(ready - events.begin()));

  Identity identity;
  DS_TRY(identity.app_id, payload_of(launch, k_event_app_id, /*sealed=*/true));
  DS_TRY(identity.compose_hash, payload_of(launch, k_event_compose_hash, /*sealed=*/true));
  DS_TRY(identity.instance_id, payload_of(launch, k_event_instance_id, /*sealed=*/true));
  if (mode == MrMode::runtime) {
    DS_TRY(identity.key_provider_info, payload_of(launch, k_event_key_provider, /*sealed=*/false));
  }
  identity.os_image_hash = base::to_bytes(os_image_hash);
  identity.device_id = crypto::sha256(ppid);

  const crypto::Hash256 mr_key_provider =
      identity.key_provider_info.empty() ? crypto::Hash256{} : crypto::sha256(identity.key_provider_info);
  identity.mr_system =
      crypto::sha256({report.mrtd, report.rtmr[0], report.rtmr[1], report.rtmr[2], mr_key_provider});

  const Register rtmr3 = mode == MrMode::runtime ? replay(events) : replay_boot_time(events);
  if (any_nonzero(report.mr_config_id) || any_nonzero(report.mr_owner) ||
      any_nonzero(report.mr_owner_config)) {
    identity.mr_aggregated =
        crypto::sha256({report.mrtd, report.rtmr[0], report.rtmr[1], report.rtmr[2], rtmr3,
                        report.mr_config_id, report.mr_owner, report.mr_owner_config});
  } else {
    identity.mr_aggregated =
        crypto::sha256({report.mrtd, report.rtmr[0], report.rtmr[1], report.rtmr[2], rtmr3});
  }
  return identity;
}

}  // namespace dstack::attest
