// Evidence about the KMS's own VM, from the guest agent on its unix socket.
#pragma once

#include <chrono>
#include <string>

#include "attest/evidence.h"
#include "base/result.h"

namespace dstack::kms {

class AgentEvidence : public attest::EvidenceSource {
 public:
  // `address` is "unix:/path". A socket on which nobody listens yet is waited for, up to `patience`.
  AgentEvidence(std::string address, std::chrono::milliseconds patience)
      : m_address(std::move(address)), m_patience(patience) {}
  base::Result<base::Bytes> attest(const attest::ReportData& report_data) override;

 private:
  std::string m_address;
  std::chrono::milliseconds m_patience;
};

// DSTACK_AGENT_ADDRESS, else the first of the usual sockets that exists, else the usual one.
std::string agent_address();

}  // namespace dstack::kms
