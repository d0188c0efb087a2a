// Intel TDX quotes, version 4 with a TD 1.0 report (spec/guest-kms.md section 3.2).
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::attest {

using Register = std::array<std::uint8_t, 48>;
using ReportData = std::array<std::uint8_t, 64>;

// What the TD report inside a quote says.
struct TdReport {
  std::array<std::uint8_t, 16> tee_tcb_svn{};
  Register mr_seam{};
  Register mr_signer_seam{};
  std::uint64_t seam_attributes = 0;
  std::uint64_t td_attributes = 0;
  std::uint64_t xfam = 0;
  Register mrtd{};
  Register mr_config_id{};
  Register mr_owner{};
  Register mr_owner_config{};
  std::array<Register, 4> rtmr{};
  ReportData report_data{};
};

// Bits of TdReport::td_attributes.
inline constexpr std::uint64_t k_td_debug = 1;
inline constexpr std::uint64_t k_td_sept_ve_disable = 1ULL << 28;

struct Quote {
  std::array<std::uint8_t, 20> user_data{};  // header, bytes 28 to 48
  TdReport report;
  base::Bytes signed_region;  // the 632 bytes that `signature` covers
  std::array<std::uint8_t, 64> signature{};
  std::array<std::uint8_t, 64> attestation_key{};  // X, Y
  std::array<std::uint8_t, 384> qe_report{};
  std::array<std::uint8_t, 64> qe_report_signature{};
  base::Bytes qe_auth_data;   // 32 bytes
  std::string pck_chain_pem;  // leaf first, root last

  // Bounds-checked; bytes behind the quote must be zero. Refuses other versions, TEE types, key types, QE
  // vendors and certification types. Code::evidence_format.
  static base::Result<Quote> parse(base::ByteView bytes);
  // The first 632 bytes for a report, as a quoting enclave would sign them.
  static base::Bytes make_signed_region(const TdReport& report);
  // The whole quote from the fields; `report` is taken from `signed_region`.
  base::Bytes encode() const;
};

}  // namespace dstack::attest
