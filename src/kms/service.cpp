#include "kms/service.h"

#include <google/protobuf/empty.pb.h>

#include "attest/ra_tls.h"
#include "attest/report_data.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::kms {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;
using google::protobuf::Empty;

constexpr std::size_t k_app_id_size = 20;
constexpr std::uint32_t k_app_key_version = 1;
constexpr std::uint32_t k_csr_version = 2;

std::string text(ByteView bytes) {
  return base::to_text(bytes);
}

Result<crypto::CertificateProfile> leaf_profile(const attest::CertificateRequest& csr, ByteView app_id) {
  crypto::CertificateProfile profile;
  profile.organization = csr.organization.value_or("");
  profile.common_name = csr.subject;
  profile.alt_names = csr.alt_names;
  profile.server_auth = csr.server_auth;
  profile.client_auth = csr.client_auth;
  // Values beyond what a date can be are refused where the certificate is made.
  const auto seconds = [](const std::optional<std::uint64_t>& value) -> std::optional<std::int64_t> {
    return value ? std::optional(static_cast<std::int64_t>(std::min<std::uint64_t>(*value, INT64_MAX)))
                 : std::nullopt;
  };
  profile.not_before = seconds(csr.not_before);
  profile.not_after = seconds(csr.not_after);
  profile.extensions = {attest::app_id_extension(app_id),
                        attest::usage_extension(attest::k_usage_app_custom)};
  if (csr.ext_quote) {
    DS_TRY(auto extension, attest::attestation_extension(csr.attestation));
    profile.extensions.push_back(std::move(extension));
  }
  return profile;
}

bool needs_attestation(std::string_view path) {
  return path.ends_with("GetAppKey") || path.ends_with("SignCert");
}

}  // namespace

Result<attest::Verdict> SelfAuthorization::identity() {
  const std::lock_guard lock(m_mutex);
  if (!m_identity) {
    DS_TRY(auto attestation, m_evidence.attest(attest::ReportData{}));
    DS_TRY(m_identity, attest::verify(attestation, attest::ReportData{}, m_anchors, std::time(nullptr)));
  }
  return *m_identity;
}

Result<> SelfAuthorization::check() {
  if (!m_enforced) {
    return {};
  }
  DS_TRY(auto verdict, identity());
  DS_TRY(auto permission, m_webhook.ask_kms(verdict));
  if (!permission.allowed) {
    return fail(Code::kms_refused, format("KMS is not allowed: {}", base::escape_control(permission.reason)),
                "add the KMS's mrAggregated to kms.mrAggregated of the allow-list, or set "
                "core.enforce_self_authorization = false");
  }
  return {};
}

template <class Request, class Response>
void KmsService::method(const std::string& name,
                        Result<Response> (KmsService::*function)(const Evidence&, const Request&)) {
  m_rpc.on<Request, Response>(
      name, [this, function](const rpc::Call& call, const Request& request) -> Result<Response> {
        Evidence caller;
        if (const auto& der = call.http.peer.certificate_der; !der.empty()) {
          auto evidence = attest::verify_certificate_evidence(der, m_config.anchors, m_now());
          if (!evidence) {
            return fail(std::move(evidence).error(), "the client's evidence is refused");
          }
          caller = *std::move(evidence);
        }
        return (this->*function)(caller, request);
      });
}

KmsService::KmsService(const Config& config, const RootKeys& keys, const Webhook& webhook,
                       SelfAuthorization& self, std::function<std::int64_t()> now)
    : m_config(config),
      m_keys(keys),
      m_webhook(webhook),
      m_self(self),
      m_now(std::move(now)),
      m_rpc("/prpc", {"KMS."}) {
  method("GetAppKey", &KmsService::get_app_key);
  method("SignCert", &KmsService::sign_cert);
  method("GetAppEnvEncryptPubKey", &KmsService::get_env_key);
  m_rpc.on<Empty, ::kms::GetTempCaCertResponse>(
      "GetTempCaCert", [this](const rpc::Call&, const Empty&) { return get_temp_ca_cert(); });
  m_rpc.on<Empty, ::kms::GetMetaResponse>("GetMeta",
                                          [this](const rpc::Call&, const Empty&) { return get_meta(); });
}

net::Response KmsService::handle(const net::Request& request) {
  if (request.path == "/health") {
    return net::Response::text(200, "OK");
  }
  if (request.path == "/metrics" && m_config.metrics) {
    return net::Response::text(200, metrics());
  }
  if (!m_rpc.owns(request.path)) {
    return net::Response::text(404, "not found");
  }
  auto response = m_rpc.handle(request);
  if (needs_attestation(request.path)) {
    ++m_attestation_requests;
    if (response.status >= 400) {
      ++m_attestation_failures;
    }
  }
  return response;
}

std::string KmsService::metrics() const {
  return format(
      "# TYPE dstack_kms_attestation_requests_total counter\n"
      "dstack_kms_attestation_requests_total {}\n"
      "# TYPE dstack_kms_attestation_failures_total counter\n"
      "dstack_kms_attestation_failures_total {}\n",
      m_attestation_requests.load(), m_attestation_failures.load());
}

Result<> KmsService::check_self() {
  if (auto allowed = m_self.check(); !allowed) {
    return fail(std::move(allowed).error(), "KMS self authorization failed");
  }
  return {};
}

Result<KmsService::Authorized> KmsService::authorize_app(const attest::Evidence& evidence,
                                                         std::string_view vm_config,
                                                         attest::MrMode mode) const {
  DS_TRY(auto verdict, attest::identify(evidence, vm_config, mode));
  if (verdict.identity.app_id.size() != k_app_id_size) {
    return fail(Code::kms_refused, "app_id must be 20 bytes",
                "boot the app with an image that measures its app id");
  }
  DS_TRY(auto permission, m_webhook.ask_app(verdict));
  const std::string app = base::to_hex(verdict.identity.app_id);
  if (!permission.allowed) {
    const std::string reason = base::escape_control(permission.reason);
    base::log_warn(format("app {} denied: {}", app, reason));
    return fail(Code::kms_refused, format("Boot denied: {}", reason),
                "register the app's compose hash and OS image in the allow-list");
  }
  base::log_info(format("app {} allowed, evidence anchor: {}", app, attest::to_string(verdict.anchor)));
  return Authorized{std::move(verdict), std::move(permission)};
}

Result<::kms::AppKeyResponse> KmsService::get_app_key(const Evidence& caller,
                                                      const ::kms::GetAppKeyRequest& request) {
  if (request.api_version() > k_app_key_version) {
    return fail(Code::unsupported, "Unsupported API version");
  }
  DS_CHECK(check_self());
  const auto authorized = [&]() -> Result<Authorized> {
    if (!caller) {
      return fail(Code::attest, "No attestation provided",
                  "call with a client certificate that carries evidence for its key");
    }
    return authorize_app(*caller, request.vm_config(), attest::MrMode::runtime);
  }();
  if (!authorized) {
    return fail(authorized.error(), "App not allowed");
  }
  const auto& who = authorized->verdict.identity;
  DS_TRY(auto secrets, derive_app_secrets(m_keys, who.app_id, who.instance_id));
  ::kms::AppKeyResponse response;
  response.set_ca_cert(m_keys.root_ca.certificate.pem());
  response.set_disk_crypt_key(text(secrets.disk_key.view()));
  response.set_env_crypt_key(text(secrets.env_key.view()));
  response.set_k256_key(text(secrets.k256.scalar().view()));
  response.set_k256_signature(text(secrets.k256_signature));
  response.set_tproxy_app_id(authorized->permission.gateway_app_id);
  response.set_gateway_app_id(authorized->permission.gateway_app_id);
  response.set_os_image_hash(text(who.os_image_hash));
  return response;
}

Result<::kms::SignCertResponse> KmsService::sign_cert(const Evidence&,
                                                      const ::kms::SignCertRequest& request) {
  if (request.api_version() != k_csr_version) {
    return fail(Code::unsupported, "Unsupported API version", "send certificate requests of version 2");
  }
  DS_CHECK(check_self());
  const ByteView csr_bytes = base::as_bytes(request.csr());
  DS_TRY(auto csr, attest::CertificateRequest::decode(csr_bytes));
  DS_TRY(auto key, crypto::P256PublicKey::from_spki(csr.public_key));
  if (!key.verify_der(csr_bytes, base::as_bytes(request.signature()))) {
    return fail(Code::crypto, "the certificate request is not signed by its own key");
  }
  if (csr.ext_app_info) {
    return fail(Code::unsupported, "this KMS does not write the app info extension",
                "ask without with_app_info");
  }
  auto evidence = attest::verify_evidence(csr.attestation, attest::ra_tls_report_data(csr.public_key),
                                          m_config.anchors, m_now());
  if (!evidence) {
    return fail(std::move(evidence).error(), "the evidence in the certificate request is refused");
  }
  auto authorized = authorize_app(*evidence, request.vm_config(), attest::MrMode::boot_time);
  if (!authorized) {
    return fail(std::move(authorized).error(), "App not allowed");
  }
  const auto& app_id = authorized->verdict.identity.app_id;
  DS_TRY(auto app_ca, derive_app_ca(m_keys, app_id));
  DS_TRY(auto profile, leaf_profile(csr, app_id));
  DS_TRY(auto leaf, crypto::issue(profile, key, app_ca));
  ::kms::SignCertResponse response;
  response.add_certificate_chain(leaf.pem());
  response.add_certificate_chain(app_ca.certificate.pem());
  response.add_certificate_chain(m_keys.root_ca.certificate.pem());
  return response;
}

Result<::kms::PublicKeyResponse> KmsService::get_env_key(const Evidence&, const ::kms::AppId& request) {
  DS_CHECK(check_self());
  if (request.app_id().size() != k_app_id_size) {
    return fail(Code::invalid_argument, "app_id must be 20 bytes");
  }
  const auto timestamp = static_cast<std::uint64_t>(m_now());
  DS_TRY(auto key, derive_env_public_key(m_keys, base::as_bytes(request.app_id()), timestamp));
  ::kms::PublicKeyResponse response;
  response.set_public_key(text(key.key));
  response.set_signature(text(key.signature));
  response.set_timestamp(timestamp);
  response.set_signature_v1(text(key.signature_v1));
  return response;
}

Result<::kms::GetTempCaCertResponse> KmsService::get_temp_ca_cert() {
  DS_CHECK(check_self());
  ::kms::GetTempCaCertResponse response;
  response.set_temp_ca_cert(m_keys.temp_ca.certificate.pem());
  response.set_temp_ca_key(std::string(m_keys.temp_ca.key.pkcs8_pem().text()));
  response.set_ca_cert(m_keys.root_ca.certificate.pem());
  return response;
}

Result<::kms::GetMetaResponse> KmsService::get_meta() {
  DS_TRY(auto info, m_webhook.info());
  ::kms::GetMetaResponse response;
  response.set_ca_cert(m_keys.root_ca.certificate.pem());
  response.set_k256_pubkey(text(m_keys.k256.public_key()));
  response.set_gateway_app_id(info.gateway_app_id);
  response.set_kms_contract_address(info.contract_address);
  response.set_chain_id(info.chain_id);
  response.set_app_auth_implementation(info.implementation);
  return response;
}

}  // namespace dstack::kms
