// A whole KMS: from its configuration to a listening server (spec/guest-kms.md section 1.3).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "attest/evidence.h"
#include "base/result.h"
#include "kms/config.h"
#include "kms/keys.h"
#include "kms/service.h"
#include "net/server.h"

namespace dstack::kms {

class Kms {
 public:
  // Makes keys where there are none and the configuration allows it, loads them, issues the server's
  // certificate with fresh evidence, binds. `evidence` must outlive the object.
  static base::Result<std::unique_ptr<Kms>> open(Config config, attest::EvidenceSource& evidence);

  std::uint16_t port() const { return m_port; }
  const RootKeys& keys() const { return *m_keys; }
  net::Server& server() { return *m_server; }

 private:
  Kms(Config config, attest::EvidenceSource& evidence, net::Endpoint webhook);
  base::Result<> bootstrap();
  base::Result<std::string> issue_rpc_certificate(const RootKeys& keys, const std::string& domain);
  base::Result<std::string> read_domain() const;
  base::Result<> listen();

  Config m_config;
  attest::EvidenceSource& m_evidence;
  Webhook m_webhook;
  SelfAuthorization m_self;
  std::unique_ptr<RootKeys> m_keys;
  std::unique_ptr<KmsService> m_service;
  std::unique_ptr<net::Server> m_server;
  std::string m_rpc_certificate_pem;
  std::uint16_t m_port = 0;
};

}  // namespace dstack::kms
