// Evidence in, verdict out.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attest/event_log.h"
#include "attest/identity.h"
#include "attest/quote.h"
#include "base/bytes.h"
#include "base/result.h"
#include "crypto/x509.h"

namespace dstack::attest {

// Whose root a quote chains to. Every verdict names it.
enum class Anchor { intel, simulated };
std::string_view to_string(Anchor anchor);  // "intel", "simulated"

// Which roots are believed. Intel's is always known, but evidence under it is refused for want of DCAP
// collateral.
class TrustAnchors {
 public:
  TrustAnchors() = default;
  // Trusts simulated evidence under this root (PEM): insecure by nature, only for development.
  static base::Result<TrustAnchors> insecure_simulated(std::string_view root_pem);

  const std::optional<crypto::Certificate>& simulated_root() const { return m_simulated; }

 private:
  std::optional<crypto::Certificate> m_simulated;
};

// Evidence whose signatures, binding and RTMR3 hold. Which OS image it is, identify() says.
struct Evidence {
  Anchor anchor = Anchor::simulated;
  std::string tee_variant;  // "dstack-tdx"
  std::string tcb_status;   // "Simulated" under the simulated root
  std::vector<std::string> advisory_ids;
  TdReport report;
  std::vector<RuntimeEvent> events;
  base::Bytes ppid;
  std::string vm_config;  // as embedded, unwrapped; not signed
};

struct Verdict {
  Anchor anchor = Anchor::simulated;
  std::string tee_variant;
  std::string tcb_status;
  std::vector<std::string> advisory_ids;
  std::array<Register, 4> rtmr{};
  Register mrtd{};
  Identity identity;
};

// Chain to a root, QE report, attestation key, quote signature, TD attributes, report data, RTMR3 against the
// log. `now` is unix seconds. Codes evidence_*: format, signature, binding, replay, untrusted.
base::Result<Evidence> verify_evidence(base::ByteView attestation, const ReportData& expected,
                                       const TrustAnchors& anchors, std::int64_t now);
// Checks that MRTD and RTMR0-2 are those of the OS image that the VmConfig names, and derives the identity.
// `vm_config` empty means the embedded one; one without os_image_hash is an error.
base::Result<Verdict> identify(const Evidence& evidence, std::string_view vm_config, MrMode mode);
// Both, with the embedded VmConfig.
base::Result<Verdict> verify(base::ByteView attestation, const ReportData& expected,
                             const TrustAnchors& anchors, std::int64_t now, MrMode mode = MrMode::runtime);

// What is inside a quote that can be checked without knowing whom to trust: PCK chain to `root`, QE report
// signature, key binding, quote signature. Returns the PPID.
base::Result<base::Bytes> verify_quote_signatures(const Quote& quote, const crypto::Certificate& root,
                                                  std::int64_t now);
// Debug off, SEPT_VE_DISABLE on, every reserved bit zero, SEAM signer and attributes zero.
base::Result<> check_td_attributes(const TdReport& report);

// Is this certificate Intel's SGX Root CA (by the SHA-256 of its DER)?
bool is_intel_root(const crypto::Certificate& certificate);

}  // namespace dstack::attest
