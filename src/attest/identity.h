// Who evidence speaks for: identities derived from a quote and its log (spec/guest-kms.md section 3.6).
#pragma once

#include <span>

#include "attest/event_log.h"
#include "attest/quote.h"
#include "base/bytes.h"
#include "base/result.h"
#include "crypto/hash.h"

namespace dstack::attest {

enum class MrMode {
  runtime,    // all events
  boot_time,  // as of boot-mr-done, key provider left out
};

struct Identity {
  base::Bytes app_id;  // empty when the log has no such event
  base::Bytes compose_hash;
  base::Bytes instance_id;
  base::Bytes key_provider_info;  // JSON text; empty in boot-time mode
  base::Bytes os_image_hash;      // from the VmConfig
  crypto::Hash256 device_id{};    // SHA256 of the PPID; of nothing when there is no verified quote
  crypto::Hash256 mr_system{};
  crypto::Hash256 mr_aggregated{};
};

// Events before system-ready count. Two app-id, compose-hash or instance-id events there, or one of them
// behind boot-mr-done, are Code::evidence_replay: an identity must be unambiguous.
base::Result<Identity> identity_of(const TdReport& report, std::span<const RuntimeEvent> events,
                                   base::ByteView ppid, base::ByteView os_image_hash, MrMode mode);

}  // namespace dstack::attest
