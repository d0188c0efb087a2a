// The attestation container, version 0 (SCALE; spec/guest-kms.md section 3.1). Version 1 (msgpack) is
// refused.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "attest/event_log.h"
#include "attest/quote.h"
#include "base/bytes.h"
#include "base/result.h"

namespace dstack::attest {

struct Attestation {
  base::Bytes quote;
  std::vector<TdxEvent> event_log;
  std::vector<RuntimeEvent> runtime_events;
  ReportData report_data{};
  std::string config;  // see vm_config()

  base::Bytes encode() const;
  // Total, bounded (10 MiB, 4096 events each), no trailing bytes. Code::evidence_format; Code::unsupported
  // for platforms other than TDX and for version 1.
  static base::Result<Attestation> decode(base::ByteView bytes);

  // As certificates carry it: event_log reduced by strip_for_certificate().
  Attestation stripped() const;
  // The VmConfig JSON: `config` itself, or the "vm_config" string nested in it. Empty when there is none.
  base::Result<std::string> vm_config() const;
};

// Unwraps a nested "vm_config" string; `config` empty gives "".
base::Result<std::string> unwrap_vm_config(std::string_view config);
// The os_image_hash of a VmConfig JSON, 32 bytes; empty when the key is missing or the text is empty.
base::Result<base::Bytes> os_image_hash_of(std::string_view vm_config);

}  // namespace dstack::attest
