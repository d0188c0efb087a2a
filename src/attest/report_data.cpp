#include "attest/report_data.h"

#include <algorithm>

#include "base/format.h"
#include "crypto/hash.h"

namespace dstack::attest {

ReportData tagged_report_data(std::string_view tag, base::ByteView content) {
  return crypto::sha512({base::as_bytes(tag), base::as_bytes(":"), content});
}

ReportData ra_tls_report_data(base::ByteView spki) {
  return tagged_report_data("ratls-cert", spki);
}

base::Result<ReportData> padded_report_data(base::ByteView data) {
  ReportData out{};
  if (data.size() > out.size()) {
    return base::fail(base::Code::invalid_argument,
                      base::format("report data has {} bytes, more than 64", data.size()),
                      "hash the data and pass the hash");
  }
  std::ranges::copy(data, out.begin());
  return out;
}

}  // namespace dstack::attest
