// The KMS's methods (spec/guest-kms.md sections 1.6 and 1.7).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "attest/evidence.h"
#include "attest/verifier.h"
#include "base/result.h"
#include "kms/config.h"
#include "kms/keys.h"
#include "kms/webhook.h"
#include "net/http.h"
#include "proto/kms_rpc.pb.h"
#include "rpc/service.h"

namespace dstack::kms {

// Is this KMS itself allowed, by the same webhook? Its identity is taken once, the question is asked every
// time.
class SelfAuthorization {
 public:
  SelfAuthorization(bool enforced, attest::EvidenceSource& evidence, const attest::TrustAnchors& anchors,
                    const Webhook& webhook)
      : m_enforced(enforced), m_evidence(evidence), m_anchors(anchors), m_webhook(webhook) {}
  // Success when not enforced. Else "KMS is not allowed: <reason>".
  base::Result<> check();

 private:
  base::Result<attest::Verdict> identity();
  bool m_enforced;
  attest::EvidenceSource& m_evidence;
  const attest::TrustAnchors& m_anchors;
  const Webhook& m_webhook;
  std::mutex m_mutex;
  std::optional<attest::Verdict> m_identity;
};

class KmsService {
 public:
  // Everything must outlive the service. `now` gives unix seconds.
  KmsService(const Config& config, const RootKeys& keys, const Webhook& webhook, SelfAuthorization& self,
             std::function<std::int64_t()> now);

  // /health, /metrics and /prpc.
  net::Response handle(const net::Request& request);

 private:
  // The caller's evidence, when its certificate carries some; evidence that does not verify is an error.
  using Evidence = std::optional<attest::Evidence>;

  template <class Request, class Response>
  void method(const std::string& name,
              base::Result<Response> (KmsService::*function)(const Evidence&, const Request&));
  base::Result<::kms::AppKeyResponse> get_app_key(const Evidence& caller,
                                                  const ::kms::GetAppKeyRequest& request);
  base::Result<::kms::SignCertResponse> sign_cert(const Evidence& caller,
                                                  const ::kms::SignCertRequest& request);
  base::Result<::kms::PublicKeyResponse> get_env_key(const Evidence& caller, const ::kms::AppId& request);
  base::Result<::kms::GetTempCaCertResponse> get_temp_ca_cert();
  base::Result<::kms::GetMetaResponse> get_meta();

  // A verdict about the app and the webhook's permission for it: steps 3 to 5 of section 1.6.
  struct Authorized {
    attest::Verdict verdict;
    Permission permission;
  };
  base::Result<Authorized> authorize_app(const attest::Evidence& evidence, std::string_view vm_config,
                                         attest::MrMode mode) const;
  base::Result<> check_self();
  std::string metrics() const;

  const Config& m_config;
  const RootKeys& m_keys;
  const Webhook& m_webhook;
  SelfAuthorization& m_self;
  std::function<std::int64_t()> m_now;
  rpc::Service m_rpc;
  std::atomic<std::uint64_t> m_attestation_requests{0};
  std::atomic<std::uint64_t> m_attestation_failures{0};
};

}  // namespace dstack::kms
