#include "attest/versioned.h"

#include <nlohmann/json.hpp>

#include "attest/scale.h"
#include "base/format.h"

namespace dstack::attest {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;
using nlohmann::json;

constexpr std::size_t k_max_attestation = 10 * 1024 * 1024;
constexpr std::size_t k_max_events = 4096;
constexpr std::size_t k_max_config = 1024 * 1024;
constexpr std::uint8_t k_version_0 = 0x00;
constexpr std::uint8_t k_platform_tdx = 0;

// What SCALE needs at least for an event: two u32 and three empty strings; for a runtime event two empty
// strings.
constexpr std::size_t k_min_event = 11;
constexpr std::size_t k_min_runtime_event = 2;

bool is_msgpack_map(std::uint8_t byte) {
  return (byte >= 0x80 && byte <= 0x8f) || byte == 0xde || byte == 0xdf;
}

Result<json> parse_object(std::string_view text, std::string_view what) {
  if (text.size() > k_max_config) {
    return fail(Code::evidence_format, format("{} is larger than 1 MiB", what));
  }
  // Depth is bounded by dropping what lies deeper than any key that is read here.
  const auto shallow = [](int depth, json::parse_event_t, json&) { return depth <= 16; };
  json value = json::parse(text, shallow, /*allow_exceptions=*/false);
  if (!value.is_object()) {
    return fail(Code::evidence_format, format("{} is not a JSON object", what));
  }
  return value;
}

}  // namespace

Bytes Attestation::encode() const {
  ScaleWriter out;
  out.u8(k_version_0);
  out.u8(k_platform_tdx);
  out.bytes(quote);
  out.compact(event_log.size());
  for (const auto& event : event_log) {
    out.u32(event.imr);
    out.u32(event.event_type);
    out.bytes(event.digest);
    out.text(event.event);
    out.bytes(event.event_payload);
  }
  out.compact(runtime_events.size());
  for (const auto& event : runtime_events) {
    out.text(event.event);
    out.bytes(event.payload);
  }
  out.raw(report_data);
  out.text(config);
  return out.take();
}

Result<Attestation> Attestation::decode(ByteView bytes) {
  if (bytes.empty() || bytes.size() > k_max_attestation) {
    return fail(Code::evidence_format, "an attestation is empty or larger than 10 MiB");
  }
  if (is_msgpack_map(bytes.front())) {
    return fail(Code::unsupported, "an attestation of version 1 (msgpack) cannot be read by this version",
                "use an image whose event_log_version is 1");
  }
  ScaleReader in(bytes);
  if (in.u8() != k_version_0) {
    return fail(Code::evidence_format, "not an attestation");
  }
  if (const auto platform = in.u8(); in.ok() && platform != k_platform_tdx) {
    return fail(Code::unsupported,
                format("evidence of platform {} cannot be verified by this version", platform),
                "use a TDX or simulated guest");
  }
  Attestation out;
  out.quote = in.bytes();
  out.event_log.resize(in.count(k_max_events, k_min_event));
  for (auto& event : out.event_log) {
    event.imr = in.u32();
    event.event_type = in.u32();
    event.digest = in.bytes();
    event.event = in.text();
    event.event_payload = in.bytes();
  }
  out.runtime_events.resize(in.count(k_max_events, k_min_runtime_event));
  for (auto& event : out.runtime_events) {
    event.event = in.text();
    event.payload = in.bytes();
  }
  out.report_data = in.array<64>();
  out.config = in.text();
  if (!in.at_end()) {
    return fail(Code::evidence_format, in.ok() ? "an attestation has data behind its end"
                                               : "an attestation is cut off or malformed");
  }
  return out;
}

Attestation Attestation::stripped() const {
  Attestation out = *this;
  out.event_log = strip_for_certificate(event_log);
  return out;
}

Result<std::string> Attestation::vm_config() const {
  return unwrap_vm_config(config);
}

Result<std::string> unwrap_vm_config(std::string_view config) {
  if (config.empty()) {
    return std::string();
  }
  DS_TRY(auto value, parse_object(config, "an attestation's config"));
  const auto nested = value.find("vm_config");
  if (nested == value.end()) {
    return std::string(config);
  }
  if (!nested->is_string()) {
    return fail(Code::evidence_format, "the vm_config in an attestation's config is not text");
  }
  return nested->get<std::string>();
}

Result<Bytes> os_image_hash_of(std::string_view vm_config) {
  if (vm_config.empty()) {
    return Bytes{};
  }
  DS_TRY(auto value, parse_object(vm_config, "the vm_config"));
  const auto at = value.find("os_image_hash");
  if (at == value.end() || at->is_null() || (at->is_string() && at->get_ref<const std::string&>().empty())) {
    return Bytes{};
  }
  auto hash = at->is_string() ? base::from_hex(at->get_ref<const std::string&>()) : std::nullopt;
  if (!hash || hash->size() != 32) {
    return fail(Code::evidence_format, "os_image_hash in the vm_config is not 64 hex digits");
  }
  return *std::move(hash);
}

}  // namespace dstack::attest
