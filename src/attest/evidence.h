// Where evidence comes from.
#pragma once

#include "attest/quote.h"
#include "base/bytes.h"
#include "base/result.h"

namespace dstack::attest {

// Makes evidence about this machine. Implementations are safe to call from several threads.
class EvidenceSource {
 public:
  virtual ~EvidenceSource() = default;
  // Encoded attestation (versioned.h) with full event logs and this report data.
  virtual base::Result<base::Bytes> attest(const ReportData& report_data) = 0;
};

}  // namespace dstack::attest
