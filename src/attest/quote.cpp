#include "attest/quote.h"

#include <algorithm>

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

constexpr std::uint16_t k_version = 4;
constexpr std::uint16_t k_key_type_p256 = 2;
constexpr std::uint32_t k_tee_tdx = 0x81;
constexpr std::uint16_t k_cert_qe_report = 6;
constexpr std::uint16_t k_cert_pem_chain = 5;
constexpr std::size_t k_qe_auth_size = 32;
constexpr std::size_t k_signed_size = 632;
constexpr std::array<std::uint8_t, 16> k_intel_qe = {0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9,
                                                     0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07};

void write_u16(ScaleWriter& out, std::uint16_t value) {
  out.u8(static_cast<std::uint8_t>(value));
  out.u8(static_cast<std::uint8_t>(value >> 8));
}

std::uint16_t read_u16(ScaleReader& in) {
  const unsigned low = in.u8();
  return static_cast<std::uint16_t>(low | static_cast<unsigned>(in.u8()) << 8);
}

TdReport read_report(ScaleReader& in) {
  TdReport report;
  report.tee_tcb_svn = in.array<16>();
  report.mr_seam = in.array<48>();
  report.mr_signer_seam = in.array<48>();
  report.seam_attributes = in.u64();
  report.td_attributes = in.u64();
  report.xfam = in.u64();
  report.mrtd = in.array<48>();
  report.mr_config_id = in.array<48>();
  report.mr_owner = in.array<48>();
  report.mr_owner_config = in.array<48>();
  for (auto& rtmr : report.rtmr) {
    rtmr = in.array<48>();
  }
  report.report_data = in.array<64>();
  return report;
}

}  // namespace

Result<Quote> Quote::parse(ByteView bytes) {
  constexpr std::size_t k_max = 64 * 1024;
  if (bytes.size() > k_max) {
    return fail(Code::evidence_format, "a quote is larger than 64 KiB");
  }
  ScaleReader in(bytes);
  const auto version = read_u16(in);
  const auto key_type = read_u16(in);
  const auto tee_type = in.u32();
  in.raw(4);  // security versions of the quoting enclave and of the PCE
  const auto vendor = in.array<16>();
  Quote quote;
  quote.user_data = in.array<20>();
  quote.report = read_report(in);
  const auto auth_size = in.u32();
  if (!in.ok()) {
    return fail(Code::evidence_format, format("a quote is cut off: {} bytes", bytes.size()));
  }
  if (version != k_version || key_type != k_key_type_p256 || tee_type != k_tee_tdx) {
    return fail(Code::evidence_format,
                format("not a version 4 TDX quote with a P-256 key: version {}, key type {}, TEE type {:#x}",
                       version, key_type, tee_type));
  }
  if (vendor != k_intel_qe) {
    return fail(Code::evidence_format, "a quote was not made by Intel's quoting enclave");
  }
  quote.signed_region = base::to_bytes(bytes.first(k_signed_size));

  ScaleReader auth(in.raw(auth_size));
  if (!in.ok() || std::ranges::any_of(in.rest(), [](std::uint8_t byte) { return byte != 0; })) {
    return fail(Code::evidence_format, in.ok() ? "a quote has data behind its end" : "a quote is cut off");
  }
  quote.signature = auth.array<64>();
  quote.attestation_key = auth.array<64>();
  const auto outer_type = read_u16(auth);
  ScaleReader certification(auth.raw(auth.u32()));
  if (!auth.at_end() || outer_type != k_cert_qe_report) {
    return fail(Code::evidence_format,
                format("a quote's certification data are malformed (type {})", outer_type));
  }
  quote.qe_report = certification.array<384>();
  quote.qe_report_signature = certification.array<64>();
  const auto auth_data_size = read_u16(certification);
  quote.qe_auth_data = base::to_bytes(certification.raw(auth_data_size));
  const auto inner_type = read_u16(certification);
  quote.pck_chain_pem = base::to_text(certification.raw(certification.u32()));
  if (!certification.at_end() || inner_type != k_cert_pem_chain || auth_data_size != k_qe_auth_size) {
    return fail(Code::evidence_format,
                format("a quote's certification data are malformed (inner type {}, {} bytes of QE data)",
                       inner_type, auth_data_size));
  }
  return quote;
}

Bytes Quote::make_signed_region(const TdReport& report) {
  ScaleWriter out;
  write_u16(out, k_version);
  write_u16(out, k_key_type_p256);
  out.u32(k_tee_tdx);
  out.u32(0);
  out.raw(k_intel_qe);
  out.raw(std::array<std::uint8_t, 20>{});
  out.raw(report.tee_tcb_svn);
  out.raw(report.mr_seam);
  out.raw(report.mr_signer_seam);
  out.u64(report.seam_attributes);
  out.u64(report.td_attributes);
  out.u64(report.xfam);
  out.raw(report.mrtd);
  out.raw(report.mr_config_id);
  out.raw(report.mr_owner);
  out.raw(report.mr_owner_config);
  for (const auto& rtmr : report.rtmr) {
    out.raw(rtmr);
  }
  out.raw(report.report_data);
  return out.take();
}

Bytes Quote::encode() const {
  ScaleWriter certification;
  certification.raw(qe_report);
  certification.raw(qe_report_signature);
  write_u16(certification, static_cast<std::uint16_t>(qe_auth_data.size()));
  certification.raw(qe_auth_data);
  write_u16(certification, k_cert_pem_chain);
  certification.u32(static_cast<std::uint32_t>(pck_chain_pem.size()));
  certification.raw(base::as_bytes(pck_chain_pem));
  const Bytes inner = certification.take();

  ScaleWriter auth;
  auth.raw(signature);
  auth.raw(attestation_key);
  write_u16(auth, k_cert_qe_report);
  auth.u32(static_cast<std::uint32_t>(inner.size()));
  auth.raw(inner);
  const Bytes tail = auth.take();

  ScaleWriter out;
  out.raw(signed_region);
  out.u32(static_cast<std::uint32_t>(tail.size()));
  out.raw(tail);
  return out.take();
}

}  // namespace dstack::attest
