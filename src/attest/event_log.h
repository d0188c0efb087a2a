// Event logs: what was extended into the runtime registers (spec/guest-kms.md section 3.4).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attest/quote.h"
#include "base/bytes.h"
#include "base/result.h"

namespace dstack::attest {

inline constexpr std::uint32_t k_runtime_event_type = 0x08000001;

// Names of runtime events, in launch order.
inline constexpr std::string_view k_event_system_preparing = "system-preparing";
inline constexpr std::string_view k_event_app_id = "app-id";
inline constexpr std::string_view k_event_compose_hash = "compose-hash";
inline constexpr std::string_view k_event_instance_id = "instance-id";
inline constexpr std::string_view k_event_boot_mr_done = "boot-mr-done";
inline constexpr std::string_view k_event_os_image_hash = "os-image-hash";
inline constexpr std::string_view k_event_key_provider = "key-provider";
inline constexpr std::string_view k_event_storage_fs = "storage-fs";
inline constexpr std::string_view k_event_system_ready = "system-ready";

// One event of ours, extended into RTMR3.
struct RuntimeEvent {
  std::string event;
  base::Bytes payload;
  bool operator==(const RuntimeEvent&) const = default;
};

// Version 1 digest: SHA384(01 00 00 08 ":" name ":" payload).
Register event_digest(const RuntimeEvent& event);
// SHA384(value ‖ digest).
Register extend(const Register& value, base::ByteView digest);
// RTMR3 after all events.
Register replay(std::span<const RuntimeEvent> events);
// RTMR3 right after the first boot-mr-done; after all events when there is none.
Register replay_boot_time(std::span<const RuntimeEvent> events);

// One entry of the whole TDX log, firmware events included.
struct TdxEvent {
  std::uint32_t imr = 0;  // index of the RTMR
  std::uint32_t event_type = 0;
  base::Bytes digest;  // 48 bytes, or empty for a runtime event whose digest is to be recomputed
  std::string event;
  base::Bytes event_payload;
  bool operator==(const TdxEvent&) const = default;
};

// With its digest filled in.
TdxEvent to_tdx_event(const RuntimeEvent& event);
std::vector<TdxEvent> to_tdx_events(std::span<const RuntimeEvent> events);
// The runtime events (imr 3, k_runtime_event_type) of a log, in order.
std::vector<RuntimeEvent> runtime_events(std::span<const TdxEvent> events);
// Register `imr` as the log has it. Digests of runtime events are recomputed, those of others taken as given.
Register replay_register(std::span<const TdxEvent> events, std::uint32_t imr);

// The shape for certificates: ACPI DATA events with their digests, runtime events without theirs.
std::vector<TdxEvent> strip_for_certificate(std::span<const TdxEvent> events);

// Compact JSON array: imr, event_type, digest, event, event_payload (bytes as lower hex).
std::string events_to_json(std::span<const TdxEvent> events);
// Unknown keys are ignored, `digest` may be missing; version 2 events are refused. At most 4096 events, 16
// MiB text, depth bounded. Code::evidence_format.
base::Result<std::vector<TdxEvent>> events_from_json(std::string_view text);

}  // namespace dstack::attest
