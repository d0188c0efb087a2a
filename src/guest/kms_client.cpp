#include "guest/kms_client.h"

#include <google/protobuf/empty.pb.h>

#include <ctime>

#include "attest/report_data.h"
#include "attest/versioned.h"
#include "base/format.h"
#include "base/log.h"
#include "net/client.h"
#include "proto/kms_rpc.pb.h"
#include "rpc/client.h"

namespace dstack::guest {
namespace {

using base::Code;
using base::fail;
using base::Result;

constexpr const char* k_mount = "/prpc";
constexpr std::uint32_t k_app_key_version = 1;
constexpr std::uint32_t k_csr_version = 2;
constexpr std::size_t k_key_size = 32;
constexpr std::size_t k_k256_signature_size = 65;

Result<rpc::Client> connect(const KmsOptions& options, net::ClientTls tls) {
  DS_TRY(auto endpoint, net::Endpoint::parse(options.url));
  if (endpoint.kind != net::Endpoint::Kind::tls) {
    return fail(Code::invalid_argument,
                base::format("the KMS address {} is not an https:// URL", options.url),
                "give the KMS as https://HOST:PORT");
  }
  net::ClientOptions client;
  client.connect_timeout = options.connect_timeout;
  client.timeout = options.timeout;
  client.tls = std::move(tls);
  return rpc::Client(net::Client(std::move(endpoint), std::move(client)), k_mount);
}

// What a connection to the KMS must look like once its CA is known.
net::ClientTls pinned(const KmsOptions& options, const std::string& ca_cert_pem) {
  net::ClientTls tls;
  tls.ca_pem = ca_cert_pem;
  tls.verify_leaf = [anchors = options.anchors,
                     required = options.kms_evidence_required](base::ByteView leaf) -> Result<> {
    DS_TRY(auto verdict, attest::verify_kms_certificate(leaf, anchors, std::time(nullptr), required));
    if (verdict) {
      base::log_info(
          base::format("the KMS's evidence verifies, anchor: {}", attest::to_string(verdict->anchor)));
    } else {
      base::log_warn("the KMS shows no evidence");
    }
    return {};
  };
  return tls;
}

// Moves a secret out of a message and wipes what stays behind.
crypto::Secret take(std::string& field) {
  crypto::Secret out(base::as_bytes(field));
  crypto::cleanse(field.data(), field.size());
  field.clear();
  return out;
}

}  // namespace

Result<AppKeys> get_app_keys(const KmsOptions& options, attest::EvidenceSource& evidence) {
  // Whoever answers here is only asked for names; what it names as its CA is then held to its word below.
  net::ClientTls first_contact;
  first_contact.insecure = true;
  DS_TRY(auto insecure, connect(options, std::move(first_contact)));
  auto answer = insecure.call<::kms::GetTempCaCertResponse>("GetTempCaCert", google::protobuf::Empty());
  if (!answer) {
    auto error = std::move(answer).error();
    // While a KMS boots, the host's end of its port already accepts connections and drops them.
    if (error.code == Code::tls || error.code == Code::http || error.code == Code::timeout) {
      error.code = Code::connect_failed;
    }
    return std::unexpected(std::move(error));
  }
  auto& temp = *answer;

  auto ca = crypto::Certificate::from_pem(temp.ca_cert());
  if (!ca) {
    return fail(std::move(ca).error(), "the KMS's CA certificate cannot be read");
  }
  if (!options.expected_ca_spki.empty() && ca->spki() != options.expected_ca_spki) {
    return fail(Code::bad_certificate, "the KMS that answers is not the one that the app names",
                "check kms_urls and the key_provider_id of the app-compose");
  }
  auto temp_ca = crypto::load_ca(temp.temp_ca_key(), temp.temp_ca_cert());
  if (!temp_ca) {
    return fail(std::move(temp_ca).error(), "the KMS's CA for client certificates cannot be used");
  }
  DS_TRY(auto key, crypto::P256Key::generate());
  crypto::CertificateProfile profile;
  profile.common_name = "RA-TLS TEMP Cert";
  DS_TRY(auto certificate, attest::issue_with_evidence(profile, key.public_key(), *temp_ca, evidence));

  auto tls = pinned(options, temp.ca_cert());
  tls.certificate_chain_pem = certificate.pem();
  tls.private_key_pem = std::string(key.pkcs8_pem().text());
  DS_TRY(auto client, connect(options, std::move(tls)));
  ::kms::GetAppKeyRequest request;
  request.set_api_version(k_app_key_version);
  request.set_vm_config(options.vm_config);
  DS_TRY(auto response, client.call<::kms::AppKeyResponse>("GetAppKey", request));

  AppKeys keys;
  keys.disk_crypt_key = take(*response.mutable_disk_crypt_key());
  keys.env_crypt_key = take(*response.mutable_env_crypt_key());
  keys.k256_key = take(*response.mutable_k256_key());
  keys.k256_signature = base::to_bytes(response.k256_signature());
  keys.gateway_app_id =
      response.gateway_app_id().empty() ? response.tproxy_app_id() : response.gateway_app_id();
  keys.os_image_hash = base::to_bytes(response.os_image_hash());
  keys.ca_cert_pem = response.ca_cert();
  auto answered_ca = crypto::Certificate::from_pem(keys.ca_cert_pem);
  if (!answered_ca || answered_ca->spki() != ca->spki()) {
    return fail(Code::bad_certificate, "the KMS hands out keys under another CA than its own");
  }
  keys.ca_spki = ca->spki();
  if (keys.disk_crypt_key.size() != k_key_size || keys.env_crypt_key.size() != k_key_size ||
      keys.k256_key.size() != k_key_size || keys.k256_signature.size() != k_k256_signature_size) {
    return fail(Code::rpc, "the KMS's keys do not have the expected sizes");
  }
  return keys;
}

Result<std::vector<std::string>> sign_certificate(const KmsOptions& options, const std::string& ca_cert_pem,
                                                  const crypto::P256Key& key,
                                                  attest::CertificateRequest request,
                                                  attest::EvidenceSource& evidence) {
  request.public_key = key.spki();
  DS_TRY(auto full, evidence.attest(attest::ra_tls_report_data(key.spki())));
  DS_TRY(auto decoded, attest::Attestation::decode(full));
  request.attestation = decoded.stripped().encode();
  const base::Bytes csr = request.encode();
  DS_TRY(auto signature, key.sign_der(csr));

  ::kms::SignCertRequest message;
  message.set_api_version(k_csr_version);
  message.set_csr(base::to_text(csr));
  message.set_signature(base::to_text(signature));
  message.set_vm_config(options.vm_config);
  DS_TRY(auto client, connect(options, pinned(options, ca_cert_pem)));
  DS_TRY(auto response, client.call<::kms::SignCertResponse>("SignCert", message));
  std::vector<std::string> chain(response.certificate_chain().begin(), response.certificate_chain().end());
  DS_TRY(auto ca, crypto::Certificate::from_pem(ca_cert_pem));
  std::vector<crypto::Certificate> parsed;
  for (const auto& pem : chain) {
    DS_TRY(auto certificate, crypto::Certificate::from_pem(pem));
    parsed.push_back(std::move(certificate));
  }
  if (parsed.empty() || parsed.front().spki() != key.spki()) {
    return fail(Code::bad_certificate, "the KMS signed a certificate for another key");
  }
  DS_CHECK(crypto::verify_chain(parsed, std::span(&ca, 1), std::time(nullptr)));
  return chain;
}

}  // namespace dstack::guest
