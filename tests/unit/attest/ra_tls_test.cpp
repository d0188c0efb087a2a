#include "attest/ra_tls.h"

#include <gtest/gtest.h>

#include "attest/report_data.h"
#include "attest/versioned.h"
#include "unit/attest/fixtures.h"

using namespace dstack;
using attest::CertificateRequest;
using base::Bytes;
using base::Code;
using crypto::P256Key;

namespace {

constexpr std::int64_t k_now = 1'800'000'000;

crypto::CertificateAuthority new_ca() {
  crypto::CertificateProfile profile;
  profile.common_name = "test CA";
  profile.ca_path_length = 0;
  auto key = P256Key::generate().value();
  auto certificate = crypto::self_sign(profile, key).value();
  return crypto::make_ca(std::move(key), std::move(certificate)).value();
}

attest::SimulatedEvidence source(const Bytes& seed = attest::fixtures::k_seed) {
  return {attest::fixtures::platform(seed), attest::fixtures::k_vm_config, attest::fixtures::launch_events};
}

attest::TrustAnchors anchors() {
  return attest::TrustAnchors::insecure_simulated(attest::fixtures::platform().root_pem()).value();
}

crypto::Certificate kms_leaf(attest::EvidenceSource* evidence, std::string_view usage = "kms:rpc") {
  const auto ca = new_ca();
  const auto key = P256Key::generate().value();
  crypto::CertificateProfile profile;
  profile.common_name = "10.0.2.2";
  if (!usage.empty()) {
    profile.extensions.push_back(attest::usage_extension(usage));
  }
  return evidence != nullptr ? attest::issue_with_evidence(profile, key.public_key(), ca, *evidence).value()
                             : crypto::issue(profile, key.public_key(), ca).value();
}

}  // namespace

TEST(RaTls, CertificateCarriesEvidenceForItsKey) {
  auto evidence = source();
  const auto leaf = kms_leaf(&evidence);
  const auto claims = attest::read_claims(leaf).value();
  ASSERT_TRUE(claims.attestation);
  EXPECT_EQ(claims.usage, "kms:rpc");
  EXPECT_EQ(claims.spki, leaf.spki());
  // Stripped: no runtime digests.
  const auto carried = attest::Attestation::decode(*claims.attestation).value();
  EXPECT_EQ(carried.event_log.size(), 5U);
  for (const auto& event : carried.event_log) {
    EXPECT_TRUE(event.digest.empty());
  }
  const auto verified = attest::verify_certificate_evidence(leaf.der(), anchors(), k_now);
  ASSERT_TRUE(verified) << verified.error().what();
  EXPECT_TRUE(verified->has_value());
}

TEST(RaTls, EvidenceOfAnotherKeyIsRefused) {
  auto evidence = source();
  const auto other = P256Key::generate().value();
  const auto attestation = evidence.attest(attest::ra_tls_report_data(other.spki())).value();
  crypto::CertificateProfile profile;
  profile.common_name = "thief";
  profile.extensions = {attest::attestation_extension(attestation).value()};
  const auto leaf = crypto::issue(profile, P256Key::generate()->public_key(), new_ca()).value();
  const auto verified = attest::verify_certificate_evidence(leaf.der(), anchors(), k_now);
  ASSERT_FALSE(verified);
  EXPECT_EQ(verified.error().code, Code::evidence_binding);
}

TEST(RaTls, KmsCertificateNeedsItsUsageAndEvidence) {
  auto evidence = source();
  const auto verdict = attest::verify_kms_certificate(kms_leaf(&evidence).der(), anchors(), k_now);
  ASSERT_TRUE(verdict) << verdict.error().what();
  EXPECT_EQ((*verdict)->anchor, attest::Anchor::simulated);
  for (const char* usage : {"", "app:custom", "kms:rpc ", "KMS:RPC", "kms:rp"}) {
    EXPECT_FALSE(attest::verify_kms_certificate(kms_leaf(&evidence, usage).der(), anchors(), k_now)) << usage;
  }
  const auto bare = kms_leaf(nullptr);
  EXPECT_FALSE(attest::verify_kms_certificate(bare.der(), anchors(), k_now));
  const auto tolerated =
      attest::verify_kms_certificate(bare.der(), anchors(), k_now, /*evidence_required=*/false);
  ASSERT_TRUE(tolerated);
  EXPECT_FALSE(tolerated->has_value());
  // Evidence that is there is checked even when it is not required.
  auto foreign = source(Bytes(32, 1));
  EXPECT_EQ(attest::verify_kms_certificate(kms_leaf(&foreign).der(), anchors(), k_now, false).error().code,
            Code::evidence_untrusted);
  EXPECT_FALSE(attest::verify_kms_certificate(Bytes{1, 2, 3}, anchors(), k_now));
}

TEST(RaTls, JunkInTheExtensionIsRefused) {
  crypto::CertificateProfile profile;
  profile.common_name = "junk";
  profile.extensions = {{attest::k_oid_attestation, Bytes{1, 2, 3}}};
  const auto leaf = crypto::issue(profile, P256Key::generate()->public_key(), new_ca()).value();
  EXPECT_EQ(attest::verify_certificate_evidence(leaf.der(), anchors(), k_now).error().code,
            Code::evidence_format);
  auto evidence = source();
  const auto attestation = evidence.attest({}).value();
  profile.extensions = {attest::attestation_extension(attestation).value(),
                        attest::attestation_extension(attestation).value()};
  const auto twice = crypto::issue(profile, P256Key::generate()->public_key(), new_ca()).value();
  EXPECT_FALSE(attest::verify_certificate_evidence(twice.der(), anchors(), k_now));
}

// spec/guest-kms.md section 2.4.
TEST(CertificateRequest, HasTheStableEncoding) {
  CertificateRequest request;
  request.public_key = {1, 2, 3};
  request.subject = "test.example.com";
  request.server_auth = true;
  request.attestation = attest::Attestation{}.encode();
  const std::string expected = "44" + base::to_hex(base::as_bytes("please sign cert:")) + "0c01020300" +
                               "40" + base::to_hex(base::as_bytes("test.example.com")) + "00" + "01000000" +
                               "0000" + "0000000000" + std::string(128, '0') + "00";
  EXPECT_EQ(base::to_hex(request.encode()), expected);
  const auto decoded = CertificateRequest::decode(request.encode()).value();
  EXPECT_EQ(decoded.encode(), request.encode());
  EXPECT_EQ(decoded.subject, "test.example.com");
  EXPECT_TRUE(decoded.server_auth);
  EXPECT_FALSE(decoded.ext_quote);
}

TEST(CertificateRequest, RoundTripsAllFields) {
  CertificateRequest request;
  request.public_key = Bytes(91, 7);
  request.organization = "org";
  request.subject = "cn";
  request.alt_names = {"a.example", "127.0.0.1"};
  request.client_auth = true;
  request.ext_quote = true;
  request.not_before = 5;
  request.not_after = UINT64_MAX;
  request.attestation = {0, 0};
  const auto decoded = CertificateRequest::decode(request.encode()).value();
  EXPECT_EQ(decoded.encode(), request.encode());
  EXPECT_EQ(decoded.alt_names, request.alt_names);
  EXPECT_EQ(decoded.not_after, UINT64_MAX);
}

TEST(CertificateRequest, JunkIsRefused) {
  CertificateRequest request;
  request.public_key = {1};
  const Bytes good = request.encode();
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(CertificateRequest::decode(base::ByteView(good).first(size))) << size;
  }
  Bytes other_text = good;
  other_text[3] ^= 1;
  EXPECT_FALSE(CertificateRequest::decode(other_text));
  // A bool that is neither 0 nor 1: the option of the organization.
  Bytes bad_bool = good;
  bad_bool[1 + 17 + 2] = 2;
  EXPECT_FALSE(CertificateRequest::decode(bad_bool));
}
