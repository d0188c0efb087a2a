// Simulated TDX evidence: real formats, keys from a seed (spec/guest-kms.md section 3.10,
// docs/architecture.md).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "attest/event_log.h"
#include "attest/evidence.h"
#include "attest/quote.h"
#include "attest/versioned.h"
#include "base/bytes.h"
#include "base/result.h"
#include "crypto/p256.h"
#include "crypto/secret.h"

namespace dstack::attest {

// The key chain that follows from a 32-byte seed.
class SimulatedPlatform {
 public:
  // Code::bad_key unless `seed` has 32 bytes.
  static base::Result<SimulatedPlatform> from_seed(base::ByteView seed);

  // The root certificate. Its key follows from the seed; its signature differs from call to call of
  // from_seed().
  const std::string& root_pem() const { return m_root_pem; }
  // Leaf, CA, root.
  const std::string& pck_chain_pem() const { return m_chain_pem; }

  // A complete quote. MRTD and RTMR0-2 follow from `os_image_hash`.
  base::Result<base::Bytes> make_quote(base::ByteView os_image_hash, const Register& rtmr3,
                                       const ReportData& report_data) const;
  // A quote over any report, for tests of verifiers.
  base::Result<base::Bytes> sign_report(const TdReport& report) const;
  // Quote, both logs, report data and `vm_config` (JSON with os_image_hash) in one.
  base::Result<Attestation> attest(std::string_view vm_config, std::span<const RuntimeEvent> events,
                                   const ReportData& report_data) const;

 private:
  SimulatedPlatform(crypto::P256Key pck, crypto::P256Key attestation, std::string root, std::string chain)
      : m_pck(std::move(pck)),
        m_attestation(std::move(attestation)),
        m_root_pem(std::move(root)),
        m_chain_pem(std::move(chain)) {}
  crypto::P256Key m_pck;          // signs the quoting enclave's report
  crypto::P256Key m_attestation;  // signs quotes
  std::string m_root_pem;
  std::string m_chain_pem;
};

// What a simulated platform's registers are for an OS image: SHA384("dstack-simulated-mrtd:" ‖ os_image_hash)
// and SHA384("dstack-simulated-rtmr<N>:" ‖ os_image_hash), N 0 to 2.
Register simulated_mrtd(base::ByteView os_image_hash);
Register simulated_rtmr(int index, base::ByteView os_image_hash);

// SHA256("dstack-mock-p256-v1" ‖ seed ‖ label ‖ counter u32 BE), the first counter that gives a valid scalar.
// Labels: tdx-root, tdx-pck-ca, tdx-pck.
base::Result<crypto::P256Key> mock_key(base::ByteView seed, std::string_view label);

// An EvidenceSource on top: asks `events` for the log so far at each call.
class SimulatedEvidence : public EvidenceSource {
 public:
  SimulatedEvidence(SimulatedPlatform platform, std::string vm_config,
                    std::function<std::vector<RuntimeEvent>()> events)
      : m_platform(std::move(platform)), m_vm_config(std::move(vm_config)), m_events(std::move(events)) {}
  base::Result<base::Bytes> attest(const ReportData& report_data) override;
  const SimulatedPlatform& platform() const { return m_platform; }

 private:
  SimulatedPlatform m_platform;
  std::string m_vm_config;
  std::function<std::vector<RuntimeEvent>()> m_events;
};

}  // namespace dstack::attest
