// Getting keys and certificates from a KMS (spec/guest-kms.md sections 1.6, 1.7 and 2.3).
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "attest/evidence.h"
#include "attest/ra_tls.h"
#include "attest/verifier.h"
#include "base/bytes.h"
#include "base/result.h"
#include "crypto/p256.h"
#include "crypto/secret.h"

namespace dstack::guest {

struct KmsOptions {
  std::string url;        // "https://10.0.2.2:8000"; "/prpc" is appended
  std::string vm_config;  // sent along: the KMS takes the OS image hash from it
  // Verifies the KMS's own evidence with these when its certificate carries some.
  attest::TrustAnchors anchors;
  bool kms_evidence_required = false;
  // SPKI DER of the KMS root CA that is expected (key_provider_id of the app-compose); empty = whichever
  // answers.
  base::Bytes expected_ca_spki;
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds timeout{60'000};
};

struct AppKeys {
  std::string ca_cert_pem;  // KMS root CA; its SPKI is the key provider id
  base::Bytes ca_spki;
  crypto::Secret disk_crypt_key;
  crypto::Secret env_crypt_key;
  crypto::Secret k256_key;
  base::Bytes k256_signature;
  std::string gateway_app_id;
  base::Bytes os_image_hash;
};

// GetTempCaCert, an RA-TLS client certificate signed by the temp CA, then GetAppKey over mutual TLS pinned to
// the CA of the first answer. A refusal is Code::rpc with the KMS's own text ("App not allowed: Boot denied:
// ...").
base::Result<AppKeys> get_app_keys(const KmsOptions& options, attest::EvidenceSource& evidence);

// SignCert: `request` gets its public key and evidence for it filled in. `ca_cert_pem` is the pinned KMS root
// (from AppKeys). Returns the PEM chain: leaf, app CA, root CA.
base::Result<std::vector<std::string>> sign_certificate(const KmsOptions& options,
                                                        const std::string& ca_cert_pem,
                                                        const crypto::P256Key& key,
                                                        attest::CertificateRequest request,
                                                        attest::EvidenceSource& evidence);

}  // namespace dstack::guest
