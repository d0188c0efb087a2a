#include "attest/simulated.h"

#include <algorithm>
#include <string>

#include "attest/pck.h"
#include "base/format.h"
#include "crypto/hash.h"
#include "crypto/random.h"
#include "crypto/x509.h"

namespace dstack::attest {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;

constexpr std::size_t k_seed_size = 32;
constexpr std::int64_t k_not_before = 1577836800;  // 2020-01-01
constexpr std::int64_t k_not_after = 4102444800;   // 2100-01-01
constexpr std::uint64_t k_xfam = 0x602e7;          // what a TD usually has: x87 to AVX-512, AMX

crypto::CertificateProfile profile(std::string name) {
  crypto::CertificateProfile out;
  out.organization = "dstack simulated platform, not a TEE";
  out.common_name = std::move(name);
  out.alt_names = {"mock.dstack.invalid"};
  out.not_before = k_not_before;
  out.not_after = k_not_after;
  return out;
}

// An SGX report whose report data binds the attestation key.
std::array<std::uint8_t, 384> make_qe_report(ByteView attestation_key, ByteView auth_data) {
  constexpr std::size_t k_mr_signer = 128;
  constexpr std::size_t k_report_data = 320;
  std::array<std::uint8_t, 384> report{};
  std::fill_n(report.begin() + k_mr_signer, 32, std::uint8_t{0x44});
  const auto binding = crypto::sha256({attestation_key, auth_data});
  std::ranges::copy(binding, report.begin() + k_report_data);
  return report;
}

}  // namespace

Result<crypto::P256Key> mock_key(ByteView seed, std::string_view label) {
  if (seed.size() != k_seed_size) {
    return fail(Code::bad_key, format("a simulated platform's seed has {} bytes instead of 32", seed.size()),
                "give 64 hex digits");
  }
  // A digest is not a valid scalar about once in 2^32 times.
  for (std::uint8_t counter = 0; counter < 16; ++counter) {
    const std::array<std::uint8_t, 4> big_endian = {0, 0, 0, counter};
    const crypto::Secret scalar(
        crypto::sha256({base::as_bytes("dstack-mock-p256-v1"), seed, base::as_bytes(label), big_endian}));
    if (auto key = crypto::P256Key::from_scalar(scalar.view())) {
      return key;
    }
  }
  return fail(Code::crypto, "no key follows from a simulated platform's seed");
}

Register simulated_mrtd(ByteView os_image_hash) {
  return crypto::sha384({base::as_bytes("dstack-simulated-mrtd:"), os_image_hash});
}

Register simulated_rtmr(int index, ByteView os_image_hash) {
  const std::string prefix = format("dstack-simulated-rtmr{}:", index);
  return crypto::sha384({base::as_bytes(prefix), os_image_hash});
}

Result<SimulatedPlatform> SimulatedPlatform::from_seed(ByteView seed) {
  DS_TRY(auto root_key, mock_key(seed, "tdx-root"));
  auto root_profile = profile("dstack simulated TDX root");
  root_profile.ca_path_length = 1;
  DS_TRY(auto root_certificate, crypto::self_sign(root_profile, root_key));
  DS_TRY(auto root, crypto::make_ca(std::move(root_key), std::move(root_certificate)));

  DS_TRY(auto ca_key, mock_key(seed, "tdx-pck-ca"));
  auto ca_profile = profile("dstack simulated PCK CA");
  ca_profile.ca_path_length = 0;
  DS_TRY(auto ca_certificate, crypto::issue(ca_profile, ca_key.public_key(), root));
  DS_TRY(auto ca, crypto::make_ca(std::move(ca_key), std::move(ca_certificate)));

  DS_TRY(auto pck_key, mock_key(seed, "tdx-pck"));
  auto pck_profile = profile("dstack simulated PCK");
  pck_profile.raw_extensions = {{k_oid_sgx, make_sgx_extension(Bytes(16, 0), Bytes(6, 0))}};
  DS_TRY(auto pck, crypto::issue(pck_profile, pck_key.public_key(), ca));

  DS_TRY(auto attestation_key, crypto::P256Key::generate());
  const std::string root_pem = root.certificate.pem();
  return SimulatedPlatform(std::move(pck_key), std::move(attestation_key), root_pem,
                           pck.pem() + ca.certificate.pem() + root_pem);
}

Result<Bytes> SimulatedPlatform::sign_report(const TdReport& report) const {
  Quote quote;
  quote.report = report;
  quote.signed_region = Quote::make_signed_region(report);
  DS_TRY(quote.signature, m_attestation.sign_raw(quote.signed_region));
  quote.attestation_key = m_attestation.public_key().raw();
  DS_TRY(quote.qe_auth_data, crypto::random_bytes(32));
  quote.qe_report = make_qe_report(quote.attestation_key, quote.qe_auth_data);
  DS_TRY(quote.qe_report_signature, m_pck.sign_raw(quote.qe_report));
  quote.pck_chain_pem = m_chain_pem;
  return quote.encode();
}

Result<Bytes> SimulatedPlatform::make_quote(ByteView os_image_hash, const Register& rtmr3,
                                            const ReportData& report_data) const {
  TdReport report;
  report.td_attributes = k_td_sept_ve_disable;
  report.xfam = k_xfam;
  report.mrtd = simulated_mrtd(os_image_hash);
  for (int i = 0; i < 3; ++i) {
    report.rtmr[static_cast<std::size_t>(i)] = simulated_rtmr(i, os_image_hash);
  }
  report.rtmr[3] = rtmr3;
  report.report_data = report_data;
  return sign_report(report);
}

Result<Attestation> SimulatedPlatform::attest(std::string_view vm_config,
                                              std::span<const RuntimeEvent> events,
                                              const ReportData& report_data) const {
  DS_TRY(auto os_image_hash, os_image_hash_of(vm_config));
  if (os_image_hash.empty()) {
    return fail(Code::attest, "simulated evidence needs an OS image, and the vm_config names none",
                "start the VM with a VMM that writes os_image_hash into the vm_config");
  }
  Attestation out;
  DS_TRY(out.quote, make_quote(os_image_hash, replay(events), report_data));
  out.event_log = to_tdx_events(events);
  out.runtime_events.assign(events.begin(), events.end());
  out.report_data = report_data;
  out.config = std::string(vm_config);
  return out;
}

Result<Bytes> SimulatedEvidence::attest(const ReportData& report_data) {
  DS_TRY(auto attestation, m_platform.attest(m_vm_config, m_events(), report_data));
  return attestation.encode();
}

}  // namespace dstack::attest
