// What the guest offers its containers on /run/dstack.sock (spec/guest-kms.md sections 4.4 to 4.7).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "app/app_compose.h"
#include "attest/evidence.h"
#include "base/result.h"
#include "guest/config.h"
#include "guest/keys.h"
#include "net/http.h"
#include "proto/agent_rpc.pb.h"
#include "rpc/service.h"

namespace dstack::guest {

// A certificate for `key` as `request` describes it; PEM, leaf first.
using SignCertificate = std::function<base::Result<std::vector<std::string>>(
    const crypto::P256Key& key, attest::CertificateRequest request)>;

struct AgentContext {
  std::string app_compose;  // the measured text
  app::AppCompose compose;
  BootIdentity identity;
  std::string vm_config;
  BootKeys keys;
  SignCertificate sign;
  std::string cloud_vendor;
  std::string cloud_product;
};

// Issues certificates with the boot's own CA: leaf, root.
SignCertificate sign_with_ca(crypto::CertificateAuthority ca, base::Bytes app_id,
                             attest::EvidenceSource& evidence);

// Thread-safe: the context is read only, the evidence source is safe by contract.
class Agent {
 public:
  Agent(AgentContext context, attest::EvidenceSource& evidence);

  base::Result<dstack_guest::GetKeyResponse> get_key(const dstack_guest::GetKeyArgs& args) const;
  base::Result<dstack_guest::GetTlsKeyResponse> get_tls_key(const dstack_guest::GetTlsKeyArgs& args) const;
  base::Result<dstack_guest::GetQuoteResponse> get_quote(const dstack_guest::RawQuoteArgs& args) const;
  base::Result<dstack_guest::AttestResponse> attest(const dstack_guest::RawQuoteArgs& args) const;
  base::Result<dstack_guest::AppInfo> info() const;

  // The methods at the root of the socket: POST /GetKey and so on.
  net::Response handle(const net::Request& request) const { return m_service.handle(request); }

 private:
  AgentContext m_context;
  attest::EvidenceSource& m_evidence;
  rpc::Service m_service;
};

// "dstack 0.1.0", the value of the X-App-Version header.
std::string agent_version();

}  // namespace dstack::guest
