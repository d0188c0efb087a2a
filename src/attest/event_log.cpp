#include "attest/event_log.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "crypto/hash.h"

namespace dstack::attest {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;
using nlohmann::json;

constexpr std::size_t k_max_events = 4096;
constexpr std::size_t k_max_json = 16 * 1024 * 1024;
constexpr int k_max_depth = 16;
constexpr std::uint32_t k_registers = 4;
constexpr std::uint32_t k_runtime_register = 3;
constexpr std::uint32_t k_acpi_event_type = 10;  // EV_PLATFORM_CONFIG_FLAGS
constexpr std::string_view k_acpi_payload = "ACPI DATA";

bool is_runtime(const TdxEvent& event) {
  return event.imr == k_runtime_register && event.event_type == k_runtime_event_type;
}

RuntimeEvent to_runtime_event(const TdxEvent& event) {
  return {event.event, event.event_payload};
}

Result<Bytes> read_hex(const json& value, const char* key, std::size_t index) {
  const auto at = value.find(key);
  if (at == value.end() || at->is_null()) {
    return Bytes{};
  }
  auto bytes = at->is_string() ? base::from_hex(at->get_ref<const std::string&>()) : std::nullopt;
  if (!bytes) {
    return fail(Code::evidence_format, format("event {} of an event log: '{}' is not hex", index, key));
  }
  return *std::move(bytes);
}

Result<std::uint32_t> read_u32(const json& value, const char* key, std::size_t index) {
  const auto at = value.find(key);
  if (at == value.end() || !at->is_number_unsigned() || at->get<std::uint64_t>() > UINT32_MAX) {
    return fail(Code::evidence_format, format("event {} of an event log: '{}' is not a number", index, key));
  }
  return static_cast<std::uint32_t>(at->get<std::uint64_t>());
}

Result<TdxEvent> read_event(const json& value, std::size_t index) {
  if (!value.is_object()) {
    return fail(Code::evidence_format, format("event {} of an event log is not an object", index));
  }
  TdxEvent event;
  DS_TRY(event.imr, read_u32(value, "imr", index));
  DS_TRY(event.event_type, read_u32(value, "event_type", index));
  DS_TRY(event.digest, read_hex(value, "digest", index));
  DS_TRY(event.event_payload, read_hex(value, "event_payload", index));
  if (const auto name = value.find("event"); name != value.end()) {
    if (!name->is_string()) {
      return fail(Code::evidence_format, format("event {} of an event log: 'event' is not text", index));
    }
    event.event = name->get<std::string>();
  }
  const auto version = value.find("version");
  if (version != value.end() && !version->is_null() && *version != 1) {
    return fail(Code::evidence_format, format("event {} of an event log has another version than 1", index));
  }
  if (event.imr >= k_registers || (!event.digest.empty() && event.digest.size() != Register{}.size())) {
    return fail(Code::evidence_format, format("event {} of an event log is malformed", index));
  }
  return event;
}

}  // namespace

Register event_digest(const RuntimeEvent& event) {
  constexpr std::array<std::uint8_t, 4> k_type = {
      k_runtime_event_type & 0xff, k_runtime_event_type >> 8 & 0xff, k_runtime_event_type >> 16 & 0xff,
      k_runtime_event_type >> 24};
  const ByteView colon = base::as_bytes(":");
  return crypto::sha384({k_type, colon, base::as_bytes(event.event), colon, event.payload});
}

Register extend(const Register& value, ByteView digest) {
  return crypto::sha384({value, digest});
}

Register replay(std::span<const RuntimeEvent> events) {
  Register value{};
  for (const auto& event : events) {
    value = extend(value, event_digest(event));
  }
  return value;
}

Register replay_boot_time(std::span<const RuntimeEvent> events) {
  const auto done = std::ranges::find(events, k_event_boot_mr_done, &RuntimeEvent::event);
  const auto count = static_cast<std::size_t>(done - events.begin());
  return replay(events.first(std::min(count + 1, events.size())));
}

TdxEvent to_tdx_event(const RuntimeEvent& event) {
  const Register digest = event_digest(event);
  return {k_runtime_register, k_runtime_event_type, Bytes(digest.begin(), digest.end()), event.event,
          event.payload};
}

std::vector<TdxEvent> to_tdx_events(std::span<const RuntimeEvent> events) {
  std::vector<TdxEvent> out;
  std::ranges::transform(events, std::back_inserter(out), to_tdx_event);
  return out;
}

std::vector<RuntimeEvent> runtime_events(std::span<const TdxEvent> events) {
  std::vector<RuntimeEvent> out;
  for (const auto& event : events) {
    if (is_runtime(event)) {
      out.push_back(to_runtime_event(event));
    }
  }
  return out;
}

Register replay_register(std::span<const TdxEvent> events, std::uint32_t imr) {
  Register value{};
  for (const auto& event : events) {
    if (event.imr == imr) {
      value = is_runtime(event) ? extend(value, event_digest(to_runtime_event(event)))
                                : extend(value, event.digest);
    }
  }
  return value;
}

std::vector<TdxEvent> strip_for_certificate(std::span<const TdxEvent> events) {
  std::vector<TdxEvent> out;
  for (const auto& event : events) {
    if (is_runtime(event)) {
      out.push_back(event);
      out.back().digest.clear();
    } else if (event.imr == 0 && event.event_type == k_acpi_event_type &&
               base::as_text(event.event_payload) == k_acpi_payload) {
      out.push_back(event);
    }
  }
  return out;
}

std::string events_to_json(std::span<const TdxEvent> events) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const auto& event : events) {
    out.push_back({{"imr", event.imr},
                   {"event_type", event.event_type},
                   {"digest", base::to_hex(event.digest)},
                   {"event", event.event},
                   {"event_payload", base::to_hex(event.event_payload)}});
  }
  // Names come from decoded evidence too, which need not be UTF-8.
  return out.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

Result<std::vector<TdxEvent>> events_from_json(std::string_view text) {
  if (text.size() > k_max_json) {
    return fail(Code::evidence_format, "an event log is larger than 16 MiB");
  }
  const auto shallow = [](int depth, json::parse_event_t, json&) { return depth <= k_max_depth; };
  const json log = json::parse(text, shallow, /*allow_exceptions=*/false);
  if (!log.is_array() || log.size() > k_max_events) {
    return fail(Code::evidence_format,
                format("an event log is not a JSON array of at most {} events", k_max_events));
  }
  std::vector<TdxEvent> out;
  for (std::size_t i = 0; i < log.size(); ++i) {
    DS_TRY(auto event, read_event(log[i], i));
    out.push_back(std::move(event));
  }
  return out;
}

}  // namespace dstack::attest
