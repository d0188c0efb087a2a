#include "kms/kms.h"

#include <ctime>

#include "attest/ra_tls.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"

namespace dstack::kms {
namespace {

using base::Code;
using base::fail;
using base::format;
using base::Result;

void announce(const Config& config) {
  if (config.anchors.simulated_root()) {
    base::log_warn(
        "INSECURE: simulated evidence is trusted (core.attestation.root_ca.tdx). Anyone who holds the "
        "simulated "
        "platform's seed gets every key of this KMS. For development only");
  }
  if (!config.enforce_self_authorization) {
    base::log_warn("the KMS does not ask the webhook about itself (core.enforce_self_authorization = false)");
  }
}

}  // namespace

Kms::Kms(Config config, attest::EvidenceSource& evidence, net::Endpoint webhook)
    : m_config(std::move(config)),
      m_evidence(evidence),
      m_webhook(std::move(webhook)),
      m_self(m_config.enforce_self_authorization, m_evidence, m_config.anchors, m_webhook) {}

Result<std::unique_ptr<Kms>> Kms::open(Config config, attest::EvidenceSource& evidence) {
  announce(config);
  DS_TRY(auto endpoint, net::Endpoint::parse(config.webhook_url));
  std::unique_ptr<Kms> kms(new Kms(std::move(config), evidence, std::move(endpoint)));
  DS_TRY(auto state, find_root_keys(kms->m_config.cert_dir));
  if (state == KeyState::none) {
    DS_CHECK(kms->bootstrap());
  }
  DS_TRY(auto keys, load_root_keys(kms->m_config.cert_dir));
  DS_CHECK(renew_ca_certificates(kms->m_config.cert_dir, keys, std::time(nullptr)));
  kms->m_keys = std::make_unique<RootKeys>(std::move(keys));
  // bootstrap() has made the certificate already: evidence is slow to get on real machines.
  if (kms->m_rpc_certificate_pem.empty()) {
    DS_TRY(auto domain, kms->read_domain());
    DS_TRY(kms->m_rpc_certificate_pem, kms->issue_rpc_certificate(*kms->m_keys, domain));
    DS_CHECK(base::write_file_atomic(kms->m_config.cert_dir / "rpc.crt", kms->m_rpc_certificate_pem));
  }
  DS_CHECK(kms->listen());
  return kms;
}

Result<> Kms::bootstrap() {
  if (!m_config.onboard || m_config.auto_bootstrap_domain.empty()) {
    return fail(Code::kms_keys,
                format("{} has no keys, and none may be made without core.onboard.enabled = true and "
                       "core.onboard.auto_bootstrap_domain",
                       m_config.cert_dir.string()),
                "set both, or restore the keys; this version cannot fetch them from another KMS");
  }
  const auto& domain = m_config.auto_bootstrap_domain;
  if (auto allowed = m_self.check(); !allowed) {
    return fail(std::move(allowed).error(), "boot denied");
  }
  DS_TRY(auto keys, generate_root_keys());
  DS_TRY(m_rpc_certificate_pem, issue_rpc_certificate(keys, domain));
  DS_CHECK(store_root_keys(m_config.cert_dir, keys, m_rpc_certificate_pem, domain));
  base::log_info(format("made new root keys in {} for {}", m_config.cert_dir.string(), domain));
  return {};
}

Result<std::string> Kms::read_domain() const {
  if (!m_config.auto_bootstrap_domain.empty()) {
    return m_config.auto_bootstrap_domain;
  }
  DS_TRY(auto text, base::read_file(m_config.cert_dir / "rpc-domain", 1024));
  std::string domain(base::trim(text));
  DS_CHECK(check_domain(domain));
  return domain;
}

Result<std::string> Kms::issue_rpc_certificate(const RootKeys& keys, const std::string& domain) {
  crypto::CertificateProfile profile;
  profile.common_name = domain;
  profile.alt_names = {domain};
  profile.extensions = {attest::usage_extension(attest::k_usage_kms_rpc)};
  const auto& key = keys.rpc_key.public_key();
  auto certificate = m_config.attest_rpc_cert
                         ? attest::issue_with_evidence(std::move(profile), key, keys.root_ca, m_evidence)
                         : crypto::issue(profile, key, keys.root_ca);
  if (!certificate) {
    return fail(std::move(certificate).error(), "the KMS's server certificate cannot be made");
  }
  return certificate->pem();
}

Result<> Kms::listen() {
  m_service = std::make_unique<KmsService>(m_config, *m_keys, m_webhook, m_self,
                                           [] { return static_cast<std::int64_t>(std::time(nullptr)); });
  net::ServerOptions options;
  options.workers = m_config.workers;
  options.server_header = "v" DSTACK_VERSION;
  m_server = std::make_unique<net::Server>(
      [this](const net::Request& request) { return m_service->handle(request); }, options);
  net::ServerTls tls;
  tls.certificate_chain_pem = m_rpc_certificate_pem;
  tls.private_key_pem = std::string(m_keys->rpc_key.pkcs8_pem().text());
  tls.client_ca_pem = m_keys->temp_ca.certificate.pem();
  DS_TRY(m_port, m_server->listen_tcp(m_config.address, m_config.port, std::move(tls)));
  base::log_info(format("listening on https://{}:{}", m_config.address, m_port));
  return {};
}

}  // namespace dstack::kms
