// Certificates that carry evidence, and requests for them (spec/guest-kms.md section 2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attest/evidence.h"
#include "attest/verifier.h"
#include "base/bytes.h"
#include "base/result.h"
#include "crypto/p256.h"
#include "crypto/x509.h"

namespace dstack::attest {

inline constexpr const char* k_oid_app_id = "1.3.6.1.4.1.62397.1.3";
inline constexpr const char* k_oid_cert_usage = "1.3.6.1.4.1.62397.1.4";
inline constexpr const char* k_oid_attestation = "1.3.6.1.4.1.62397.1.8";

inline constexpr std::string_view k_usage_kms_rpc = "kms:rpc";
inline constexpr std::string_view k_usage_app_ca = "app:ca";
inline constexpr std::string_view k_usage_app_custom = "app:custom";

// The extension that puts evidence into a certificate, reduced to what certificates carry.
base::Result<crypto::NestedExtension> attestation_extension(base::ByteView attestation);
crypto::NestedExtension usage_extension(std::string_view usage);
crypto::NestedExtension app_id_extension(base::ByteView app_id);

// `profile` with evidence for `key` added, issued by `issuer`.
base::Result<crypto::Certificate> issue_with_evidence(crypto::CertificateProfile profile,
                                                      const crypto::P256PublicKey& key,
                                                      const crypto::CertificateAuthority& issuer,
                                                      EvidenceSource& source);

// What our extensions in a certificate say; nothing is verified.
struct CertificateClaims {
  base::Bytes spki;
  std::optional<base::Bytes> attestation;
  std::optional<base::Bytes> app_id;
  std::string usage;  // empty when absent
};
base::Result<CertificateClaims> read_claims(const crypto::Certificate& certificate);

// The certificate's evidence, verified and bound to its key; nullopt when it carries none.
base::Result<std::optional<Evidence>> verify_certificate_evidence(base::ByteView leaf_der,
                                                                  const TrustAnchors& anchors,
                                                                  std::int64_t now);

// Is this the leaf of a KMS: usage exactly "kms:rpc" and evidence that verifies? nullopt when the certificate
// carries no evidence and `evidence_required` is false. The chain to the KMS root CA is the TLS layer's
// business.
base::Result<std::optional<Verdict>> verify_kms_certificate(base::ByteView leaf_der,
                                                            const TrustAnchors& anchors, std::int64_t now,
                                                            bool evidence_required = true);

// Certificate signing request, version 2 (section 2.4).
struct CertificateRequest {
  base::Bytes public_key;  // SPKI DER
  std::optional<std::string> organization;
  std::string subject;  // common name
  std::vector<std::string> alt_names;
  bool server_auth = false;
  bool client_auth = false;
  bool ext_quote = false;  // put the evidence into the certificate
  bool ext_app_info = false;
  std::optional<std::uint64_t> not_before;  // unix seconds
  std::optional<std::uint64_t> not_after;
  base::Bytes attestation;  // encoded

  base::Bytes encode() const;
  // Bounded (10 MiB, 64 names); checks the confirmation text. Code::parse.
  static base::Result<CertificateRequest> decode(base::ByteView bytes);
};

}  // namespace dstack::attest
