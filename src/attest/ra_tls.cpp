#include "attest/ra_tls.h"

#include "attest/report_data.h"
#include "attest/scale.h"
#include "attest/versioned.h"
#include "base/format.h"

namespace dstack::attest {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;

constexpr std::string_view k_confirm = "please sign cert:";
constexpr std::size_t k_max_request = 10 * 1024 * 1024 + 64 * 1024;
constexpr std::size_t k_max_names = 64;

void write_optional(ScaleWriter& out, const std::optional<std::uint64_t>& value) {
  out.boolean(value.has_value());
  if (value) {
    out.u64(*value);
  }
}

std::optional<std::uint64_t> read_optional(ScaleReader& in) {
  return in.boolean() ? std::optional(in.u64()) : std::nullopt;
}

}  // namespace

Result<crypto::NestedExtension> attestation_extension(ByteView attestation) {
  DS_TRY(auto decoded, Attestation::decode(attestation));
  return crypto::NestedExtension{k_oid_attestation, decoded.stripped().encode()};
}

crypto::NestedExtension usage_extension(std::string_view usage) {
  return {k_oid_cert_usage, base::to_bytes(usage)};
}

crypto::NestedExtension app_id_extension(ByteView app_id) {
  return {k_oid_app_id, base::to_bytes(app_id)};
}

Result<crypto::Certificate> issue_with_evidence(crypto::CertificateProfile profile,
                                                const crypto::P256PublicKey& key,
                                                const crypto::CertificateAuthority& issuer,
                                                EvidenceSource& source) {
  DS_TRY(auto attestation, source.attest(ra_tls_report_data(key.spki())));
  DS_TRY(auto extension, attestation_extension(attestation));
  profile.extensions.push_back(std::move(extension));
  return crypto::issue(profile, key, issuer);
}

Result<CertificateClaims> read_claims(const crypto::Certificate& certificate) {
  CertificateClaims claims;
  claims.spki = certificate.spki();
  DS_TRY(claims.attestation, certificate.nested_extension(k_oid_attestation));
  DS_TRY(claims.app_id, certificate.nested_extension(k_oid_app_id));
  DS_TRY(auto usage, certificate.nested_extension(k_oid_cert_usage));
  if (usage) {
    claims.usage = base::to_text(*usage);
  }
  return claims;
}

Result<std::optional<Evidence>> verify_certificate_evidence(ByteView leaf_der, const TrustAnchors& anchors,
                                                            std::int64_t now) {
  DS_TRY(auto certificate, crypto::Certificate::from_der(leaf_der));
  DS_TRY(auto claims, read_claims(certificate));
  if (!claims.attestation) {
    return std::nullopt;
  }
  DS_TRY(auto evidence, verify_evidence(*claims.attestation, ra_tls_report_data(claims.spki), anchors, now));
  return evidence;
}

Result<std::optional<Verdict>> verify_kms_certificate(ByteView leaf_der, const TrustAnchors& anchors,
                                                      std::int64_t now, bool evidence_required) {
  DS_TRY(auto certificate, crypto::Certificate::from_der(leaf_der));
  DS_TRY(auto claims, read_claims(certificate));
  if (claims.usage != k_usage_kms_rpc) {
    return fail(Code::bad_certificate,
                claims.usage.empty() ? "the server is not a KMS: its certificate names no usage"
                                     : "the server is not a KMS: its certificate is for another usage",
                "check the address of the KMS");
  }
  if (!claims.attestation) {
    if (evidence_required) {
      return fail(Code::attest, "the KMS's certificate carries no evidence",
                  "run the KMS with attest_rpc_cert = true");
    }
    return std::nullopt;
  }
  auto verdict = verify(*claims.attestation, ra_tls_report_data(claims.spki), anchors, now);
  if (!verdict) {
    return fail(std::move(verdict).error(), "the KMS's evidence does not verify");
  }
  return *std::move(verdict);
}

Bytes CertificateRequest::encode() const {
  ScaleWriter out;
  out.text(k_confirm);
  out.bytes(public_key);
  out.boolean(organization.has_value());
  if (organization) {
    out.text(*organization);
  }
  out.text(subject);
  out.compact(alt_names.size());
  for (const auto& name : alt_names) {
    out.text(name);
  }
  out.boolean(server_auth);
  out.boolean(client_auth);
  out.boolean(ext_quote);
  out.boolean(ext_app_info);
  write_optional(out, not_before);
  write_optional(out, not_after);
  out.raw(attestation);
  return out.take();
}

Result<CertificateRequest> CertificateRequest::decode(ByteView bytes) {
  if (bytes.size() > k_max_request) {
    return fail(Code::too_large, "a certificate request is larger than 10 MiB");
  }
  ScaleReader in(bytes);
  const std::string confirm = in.text();
  if (!in.ok() || confirm != k_confirm) {
    return fail(Code::parse, format("a certificate request does not begin with '{}'", k_confirm));
  }
  CertificateRequest out;
  out.public_key = in.bytes();
  if (in.boolean()) {
    out.organization = in.text();
  }
  out.subject = in.text();
  out.alt_names.resize(in.count(k_max_names, 1));
  for (auto& name : out.alt_names) {
    name = in.text();
  }
  out.server_auth = in.boolean();
  out.client_auth = in.boolean();
  out.ext_quote = in.boolean();
  out.ext_app_info = in.boolean();
  out.not_before = read_optional(in);
  out.not_after = read_optional(in);
  if (!in.ok()) {
    return fail(Code::parse, "a certificate request is cut off or malformed");
  }
  out.attestation = base::to_bytes(in.rest());
  return out;
}

}  // namespace dstack::attest
