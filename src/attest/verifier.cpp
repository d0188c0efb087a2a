#include "attest/verifier.h"

#include <algorithm>

#include "attest/pck.h"
#include "attest/simulated.h"
#include "attest/versioned.h"
#include "base/format.h"
#include "base/log.h"
#include "crypto/hash.h"

namespace dstack::attest {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;

constexpr std::string_view k_intel_root_sha256 =
    "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3";
constexpr std::size_t k_chain_length = 3;  // PCK, its CA, root

// Bits of td_attributes that may be set: SEPT_VE_DISABLE, PKS, KL, PERFMON. The debug byte, MIGRATABLE and
// all reserved bits may not.
constexpr std::uint64_t k_td_allowed = k_td_sept_ve_disable | 1ULL << 30 | 1ULL << 31 | 1ULL << 63;

// Offsets in the quoting enclave's SGX report.
constexpr std::size_t k_qe_attributes = 48;
constexpr std::uint8_t k_qe_debug = 0x02;
constexpr std::size_t k_qe_report_data = 320;

bool is_zero(ByteView bytes) {
  return std::ranges::all_of(bytes, [](std::uint8_t byte) { return byte == 0; });
}

std::unexpected<base::Error> fail_signature(std::string what) {
  return fail(Code::evidence_signature, std::move(what),
              "treat the machine that sent this evidence as not trusted");
}

Result<> check_binding(const Attestation& attestation, const TdReport& report, const ReportData& expected) {
  if (!std::ranges::equal(report.report_data, expected)) {
    return fail(Code::evidence_binding,
                "report data mismatch: the quote was made for another key or request");
  }
  if (attestation.report_data != report.report_data) {
    return fail(Code::evidence_binding,
                "tdx report_data mismatch: the attestation names other data than its quote");
  }
  return {};
}

Result<> check_event_log(const Attestation& attestation, const TdReport& report) {
  const Register replayed = replay(attestation.runtime_events);
  if (replayed != report.rtmr[3]) {
    return fail(Code::evidence_replay, format("RTMR3 mismatch, quoted: {}, replayed: {}",
                                              base::to_hex(report.rtmr[3]), base::to_hex(replayed)));
  }
  // The second copy of the log is only informative, but two different stories are one too many.
  if (std::ranges::any_of(attestation.event_log, [](const TdxEvent& event) { return event.imr == 3; }) &&
      runtime_events(attestation.event_log) != attestation.runtime_events) {
    return fail(Code::evidence_replay, "an attestation's two event logs contradict each other");
  }
  return {};
}

// Which of the roots we know the chain claims to end in. That it does, verify_quote_signatures() shows.
Result<Anchor> find_anchor(const std::vector<crypto::Certificate>& chain, const TrustAnchors& anchors) {
  const auto& root = chain.back();
  if (is_intel_root(root)) {
    return Anchor::intel;
  }
  if (anchors.simulated_root() && anchors.simulated_root()->spki() == root.spki()) {
    return Anchor::simulated;
  }
  return fail(Code::evidence_untrusted,
              format("evidence is signed under a root that is not trusted here: {}",
                     base::escape_control(root.common_name().substr(0, 64))),
              anchors.simulated_root()
                  ? "check that both sides belong to the same installation"
                  : "simulated evidence is only believed where the configuration names its root as insecure");
}

}  // namespace

std::string_view to_string(Anchor anchor) {
  return anchor == Anchor::intel ? "intel" : "simulated";
}

Result<TrustAnchors> TrustAnchors::insecure_simulated(std::string_view root_pem) {
  DS_TRY(auto root, crypto::Certificate::from_pem(root_pem));
  if (!root.is_ca()) {
    return fail(Code::bad_certificate, "the root certificate for simulated evidence is not a CA certificate",
                "point root_ca.tdx to the root.pem that the installation made");
  }
  TrustAnchors anchors;
  anchors.m_simulated = std::move(root);
  return anchors;
}

bool is_intel_root(const crypto::Certificate& certificate) {
  return base::to_hex(crypto::sha256(certificate.der())) == k_intel_root_sha256;
}

Result<Bytes> verify_quote_signatures(const Quote& quote, const crypto::Certificate& root, std::int64_t now) {
  DS_TRY(auto chain, crypto::read_pem_chain(quote.pck_chain_pem));
  if (chain.size() != k_chain_length || chain.back().spki() != root.spki()) {
    return fail_signature("a quote's certificate chain is not leaf, CA and the expected root");
  }
  if (auto ok = crypto::verify_chain(std::span(chain).first(2), std::span(&root, 1), now); !ok) {
    auto error = std::move(ok).error();
    error.code = Code::evidence_signature;
    return fail(std::move(error), "a quote's certificate chain is not valid");
  }
  DS_TRY(auto pck, chain.front().public_key());
  if (!pck.verify_raw(quote.qe_report, quote.qe_report_signature)) {
    return fail_signature("the quoting enclave's report is not signed by the PCK key");
  }
  const ByteView qe_report_data = ByteView(quote.qe_report).subspan(k_qe_report_data);
  const auto binding = crypto::sha256({quote.attestation_key, quote.qe_auth_data});
  if (!std::ranges::equal(qe_report_data.first(binding.size()), binding) ||
      !is_zero(qe_report_data.subspan(binding.size()))) {
    return fail_signature("a quote's attestation key is not the one that the quoting enclave reported");
  }
  if ((quote.qe_report[k_qe_attributes] & k_qe_debug) != 0) {
    return fail_signature("a quote was made by a quoting enclave in debug mode");
  }
  auto attestation_key = crypto::P256PublicKey::from_raw(quote.attestation_key);
  if (!attestation_key || !attestation_key->verify_raw(quote.signed_region, quote.signature)) {
    return fail_signature("a quote is not signed by its attestation key");
  }
  return ppid_of(chain.front());
}

Result<> check_td_attributes(const TdReport& report) {
  if ((report.td_attributes & 0xff) != 0) {
    return fail(Code::attest, format("Debug mode is not allowed: TD attributes {:#x}", report.td_attributes),
                "start the VM without debug");
  }
  if ((report.td_attributes & ~k_td_allowed) != 0 || (report.td_attributes & k_td_sept_ve_disable) == 0) {
    return fail(Code::attest, format("TD attributes {:#x} are not allowed", report.td_attributes),
                "start the VM with sept-ve-disable and no other TD attribute");
  }
  if (!is_zero(report.mr_signer_seam) || report.seam_attributes != 0) {
    return fail(Code::attest, "the TDX module is not Intel's: its signer or attributes are not zero");
  }
  return {};
}

Result<Evidence> verify_evidence(ByteView attestation, const ReportData& expected,
                                 const TrustAnchors& anchors, std::int64_t now) {
  DS_TRY(auto decoded, Attestation::decode(attestation));
  DS_TRY(auto quote, Quote::parse(decoded.quote));
  auto chain = crypto::read_pem_chain(quote.pck_chain_pem);
  if (!chain) {
    auto error = std::move(chain).error();
    error.code = Code::evidence_format;
    return fail(std::move(error), "a quote's certificate chain cannot be read");
  }
  Evidence out;
  DS_TRY(out.anchor, find_anchor(*chain, anchors));
  if (out.anchor == Anchor::intel) {
    return fail(Code::evidence_untrusted,
                "a quote under Intel's root needs DCAP collateral, which this version does not evaluate",
                "use the simulated platform with this version");
  }
  DS_TRY(out.ppid, verify_quote_signatures(quote, *anchors.simulated_root(), now));
  DS_CHECK(check_td_attributes(quote.report));
  DS_CHECK(check_binding(decoded, quote.report, expected));
  DS_CHECK(check_event_log(decoded, quote.report));
  out.tee_variant = "dstack-tdx";
  out.tcb_status = "Simulated";
  out.report = quote.report;
  DS_TRY(out.vm_config, decoded.vm_config());
  out.events = std::move(decoded.runtime_events);
  return out;
}

Result<Verdict> identify(const Evidence& evidence, std::string_view vm_config, MrMode mode) {
  if (evidence.anchor != Anchor::simulated) {
    return fail(Code::unsupported,
                "the measurements of a real TDX machine cannot be recomputed by this version",
                "use the simulated platform with this version");
  }
  DS_TRY(auto os_image_hash,
         os_image_hash_of(vm_config.empty() ? std::string_view(evidence.vm_config) : vm_config));
  if (os_image_hash.empty()) {
    return fail(Code::evidence_format, "no os_image_hash comes with the evidence",
                "send the VM's vm_config along");
  }
  bool matches = evidence.report.mrtd == simulated_mrtd(os_image_hash);
  for (int i = 0; i < 3; ++i) {
    matches =
        matches && evidence.report.rtmr[static_cast<std::size_t>(i)] == simulated_rtmr(i, os_image_hash);
  }
  if (!matches) {
    return fail(Code::evidence_binding,
                format("the measured boot is not that of OS image {}", base::to_hex(os_image_hash)),
                "send the vm_config that the VM was started with");
  }
  Verdict out;
  DS_TRY(out.identity, identity_of(evidence.report, evidence.events, evidence.ppid, os_image_hash, mode));
  out.anchor = evidence.anchor;
  out.tee_variant = evidence.tee_variant;
  out.tcb_status = evidence.tcb_status;
  out.advisory_ids = evidence.advisory_ids;
  out.rtmr = evidence.report.rtmr;
  out.mrtd = evidence.report.mrtd;
  return out;
}

Result<Verdict> verify(ByteView attestation, const ReportData& expected, const TrustAnchors& anchors,
                       std::int64_t now, MrMode mode) {
  DS_TRY(auto evidence, verify_evidence(attestation, expected, anchors, now));
  return identify(evidence, {}, mode);
}

}  // namespace dstack::attest
