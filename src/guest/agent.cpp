#include "guest/agent.h"

#include <nlohmann/json.hpp>

#include "attest/identity.h"
#include "attest/quote.h"
#include "attest/report_data.h"
#include "attest/versioned.h"
#include "base/format.h"
#include "crypto/kdf.h"
#include "crypto/random.h"
#include "crypto/x25519.h"
#include "proto/prpc.pb.h"

namespace dstack::guest {

namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::Result;

constexpr std::size_t k_max_text = 4096;   // path, purpose
constexpr std::size_t k_max_subject = 64;  // X.509's own limit for a common name
constexpr int k_max_alt_names = 64;
constexpr std::size_t k_max_alt_name = 253;
constexpr std::uint64_t k_max_time = 253402300799;  // the last second of the year 9999, as far as X.509 goes

template <class T>
std::string to_field(const T& bytes) {
  return {bytes.begin(), bytes.end()};
}

// An attestation opened up.
struct OwnEvidence {
  attest::Attestation attestation;
  attest::Quote quote;
};

Result<OwnEvidence> make_evidence(attest::EvidenceSource& source, const attest::ReportData& report_data) {
  DS_TRY(const auto bytes, source.attest(report_data));
  OwnEvidence out;
  DS_TRY(out.attestation, attest::Attestation::decode(bytes));
  DS_TRY(out.quote, attest::Quote::parse(out.attestation.quote));
  return out;
}

Result<attest::ReportData> report_data_of(const dstack_guest::RawQuoteArgs& args) {
  if (args.report_data().size() > 64) {
    return fail(Code::invalid_argument, "Report data is too long");
  }
  return attest::padded_report_data(base::as_bytes(args.report_data()));
}

Result<> check_tls_args(const dstack_guest::GetTlsKeyArgs& args) {
  if (args.subject().size() > k_max_subject) {
    return fail(Code::invalid_argument, base::format("subject is longer than {} bytes", k_max_subject));
  }
  if (args.alt_names_size() > k_max_alt_names) {
    return fail(Code::invalid_argument, base::format("more than {} alt_names", k_max_alt_names));
  }
  for (const auto& name : args.alt_names()) {
    if (name.empty() || name.size() > k_max_alt_name) {
      return fail(Code::invalid_argument,
                  base::format("an alt_name is empty or longer than {} bytes", k_max_alt_name));
    }
  }
  if ((args.has_not_before() && args.not_before() > k_max_time) ||
      (args.has_not_after() && args.not_after() > k_max_time)) {
    return fail(Code::invalid_argument, "not_before or not_after lies after the year 9999");
  }
  if (args.has_not_before() && args.has_not_after() && args.not_before() >= args.not_after()) {
    return fail(Code::invalid_argument, "not_before must be earlier than not_after");
  }
  if (args.with_app_info()) {
    return fail(Code::unsupported, "with_app_info is not supported by this version");
  }
  return {};
}

}  // namespace

std::string agent_version() {
  return "dstack " DSTACK_VERSION;
}

SignCertificate sign_with_ca(crypto::CertificateAuthority ca, Bytes app_id,
                             attest::EvidenceSource& evidence) {
  const auto shared = std::make_shared<crypto::CertificateAuthority>(std::move(ca));
  return [shared, app_id = std::move(app_id), &evidence](
             const crypto::P256Key& key,
             attest::CertificateRequest request) -> Result<std::vector<std::string>> {
    crypto::CertificateProfile profile;
    profile.organization = request.organization.value_or("");
    profile.common_name = request.subject;
    profile.alt_names = request.alt_names;
    profile.server_auth = request.server_auth;
    profile.client_auth = request.client_auth;
    if (request.not_before) {
      profile.not_before = static_cast<std::int64_t>(*request.not_before);
    }
    if (request.not_after) {
      profile.not_after = static_cast<std::int64_t>(*request.not_after);
    }
    profile.extensions.push_back(attest::app_id_extension(app_id));
    profile.extensions.push_back(attest::usage_extension(attest::k_usage_app_custom));
    auto leaf = request.ext_quote
                    ? attest::issue_with_evidence(std::move(profile), key.public_key(), *shared, evidence)
                    : crypto::issue(profile, key.public_key(), *shared);
    if (!leaf) {
      return fail(std::move(leaf).error());
    }
    return std::vector<std::string>{leaf->pem(), shared->certificate.pem()};
  };
}

Agent::Agent(AgentContext context, attest::EvidenceSource& evidence)
    : m_context(std::move(context)), m_evidence(evidence), m_service("") {
  using namespace dstack_guest;
  m_service.on<GetKeyArgs, GetKeyResponse>(
      "GetKey", [this](const rpc::Call&, const auto& args) { return get_key(args); });
  m_service.on<GetTlsKeyArgs, GetTlsKeyResponse>(
      "GetTlsKey", [this](const rpc::Call&, const auto& args) { return get_tls_key(args); });
  m_service.on<RawQuoteArgs, GetQuoteResponse>(
      "GetQuote", [this](const rpc::Call&, const auto& args) { return get_quote(args); });
  m_service.on<RawQuoteArgs, AttestResponse>(
      "Attest", [this](const rpc::Call&, const auto& args) { return attest(args); });
  m_service.on<prpc::Empty, AppInfo>("Info", [this](const rpc::Call&, const auto&) { return info(); });
  m_service.on<prpc::Empty, WorkerVersion>("Version",
                                           [](const rpc::Call&, const auto&) -> Result<WorkerVersion> {
                                             WorkerVersion version;
                                             version.set_version(DSTACK_VERSION);
                                             return version;
                                           });
}

Result<dstack_guest::GetKeyResponse> Agent::get_key(const dstack_guest::GetKeyArgs& args) const {
  if (args.path().size() > k_max_text || args.purpose().size() > k_max_text) {
    return fail(Code::invalid_argument, base::format("path or purpose is longer than {} bytes", k_max_text));
  }
  const auto& algorithm = args.algorithm();
  const bool ed25519 = algorithm == "ed25519";
  if (!ed25519 && !algorithm.empty() && algorithm != "secp256k1" && algorithm != "k256") {
    return fail(Code::invalid_argument, "Unsupported algorithm");
  }
  const auto& app_key = m_context.keys.keys.k256_key;
  DS_TRY(const auto secret, crypto::derive_key(app_key.view(), {base::as_bytes(args.path())}));
  std::string public_hex;
  if (ed25519) {
    DS_TRY(const auto key, crypto::ed25519_public(secret.view()));
    public_hex = base::to_hex(key);
  } else {
    DS_TRY(const auto key, crypto::K256Key::from_scalar(secret.view()));
    public_hex = base::to_hex(key.public_key());
  }
  DS_TRY(const auto signer, crypto::K256Key::from_scalar(app_key.view()));
  const auto message = base::format("{}:{}", args.purpose(), public_hex);
  DS_TRY(const auto signature, signer.sign_recoverable(crypto::keccak256(base::as_bytes(message))));

  dstack_guest::GetKeyResponse response;
  response.set_key(std::string(secret.text()));
  response.add_signature_chain(to_field(signature));
  response.add_signature_chain(to_field(m_context.keys.keys.k256_signature));
  return response;
}

Result<dstack_guest::GetTlsKeyResponse> Agent::get_tls_key(const dstack_guest::GetTlsKeyArgs& args) const {
  DS_CHECK(check_tls_args(args));
  DS_TRY(const auto seed, crypto::random_secret(32));
  DS_TRY(const auto scalar, crypto::derive_key(seed.view(), {}));
  DS_TRY(const auto key, crypto::P256Key::from_scalar(scalar.view()));
  attest::CertificateRequest request;
  request.subject = args.subject();
  request.alt_names.assign(args.alt_names().begin(), args.alt_names().end());
  request.server_auth = args.usage_server_auth();
  request.client_auth = args.usage_client_auth();
  request.ext_quote = args.usage_ra_tls();
  if (args.has_not_before()) {
    request.not_before = args.not_before();
  }
  if (args.has_not_after()) {
    request.not_after = args.not_after();
  }
  DS_TRY(const auto chain, m_context.sign(key, std::move(request)));
  dstack_guest::GetTlsKeyResponse response;
  response.set_key(std::string(key.pkcs8_pem().text()));
  for (const auto& certificate : chain) {
    response.add_certificate_chain(certificate);
  }
  return response;
}

Result<dstack_guest::GetQuoteResponse> Agent::get_quote(const dstack_guest::RawQuoteArgs& args) const {
  DS_TRY(const auto report_data, report_data_of(args));
  DS_TRY(const auto evidence, make_evidence(m_evidence, report_data));
  dstack_guest::GetQuoteResponse response;
  response.set_quote(to_field(evidence.attestation.quote));
  response.set_event_log(attest::events_to_json(evidence.attestation.event_log));
  response.set_report_data(to_field(report_data));
  response.set_vm_config(m_context.vm_config);
  return response;
}

Result<dstack_guest::AttestResponse> Agent::attest(const dstack_guest::RawQuoteArgs& args) const {
  DS_TRY(const auto report_data, report_data_of(args));
  DS_TRY(const auto bytes, m_evidence.attest(report_data));
  dstack_guest::AttestResponse response;
  response.set_attestation(to_field(bytes));
  return response;
}

Result<dstack_guest::AppInfo> Agent::info() const {
  DS_TRY(const auto evidence, make_evidence(m_evidence, attest::ReportData{}));
  const auto& report = evidence.quote.report;
  DS_TRY(const auto os_image_hash, attest::os_image_hash_of(m_context.vm_config));
  DS_TRY(const auto identity, attest::identity_of(report, evidence.attestation.runtime_events, {},
                                                  os_image_hash, attest::MrMode::runtime));
  nlohmann::ordered_json tcb;
  tcb["mrtd"] = base::to_hex(report.mrtd);
  for (std::size_t i = 0; i < report.rtmr.size(); ++i) {
    tcb[base::format("rtmr{}", i)] = base::to_hex(report.rtmr[i]);
  }
  tcb["mr_aggregated"] = base::to_hex(identity.mr_aggregated);
  tcb["os_image_hash"] = base::to_hex(os_image_hash);
  tcb["compose_hash"] = base::to_hex(m_context.identity.compose_hash);
  tcb["device_id"] = base::to_hex(identity.device_id);
  tcb["event_log"] =
      nlohmann::ordered_json::parse(attest::events_to_json(evidence.attestation.event_log), nullptr, false);
  tcb["app_compose"] = m_context.app_compose;

  dstack_guest::AppInfo info;
  info.set_app_id(to_field(m_context.identity.app_id));
  info.set_instance_id(to_field(m_context.identity.instance_id));
  info.set_tcb_info(tcb.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  info.set_app_name(m_context.compose.name);
  info.set_device_id(to_field(identity.device_id));
  info.set_mr_aggregated(to_field(identity.mr_aggregated));
  info.set_os_image_hash(to_field(os_image_hash));
  info.set_key_provider_info(m_context.keys.provider_event);
  info.set_compose_hash(to_field(m_context.identity.compose_hash));
  info.set_vm_config(m_context.vm_config);
  info.set_cloud_vendor(m_context.cloud_vendor);
  info.set_cloud_product(m_context.cloud_product);
  return info;
}

}  // namespace dstack::guest
