// What the 64 bytes of report data say (spec/guest-kms.md section 3.5).
#pragma once

#include <string_view>

#include "attest/quote.h"
#include "base/bytes.h"
#include "base/result.h"

namespace dstack::attest {

// SHA512(tag ":" content).
ReportData tagged_report_data(std::string_view tag, base::ByteView content);
// For RA-TLS certificates and CSRs: tag "ratls-cert", content the SPKI DER.
ReportData ra_tls_report_data(base::ByteView spki);
// The agent's GetQuote and Attest: at most 64 bytes, padded with zeros on the right. Code::invalid_argument.
base::Result<ReportData> padded_report_data(base::ByteView data);

}  // namespace dstack::attest
