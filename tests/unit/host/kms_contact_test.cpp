// The host's contact with its KMS, against a TLS server whose certificate carries simulated evidence.
#include "host/kms_contact.h"

#include <gtest/gtest.h>

#include <ctime>
#include <memory>

#include "attest/ra_tls.h"
#include "attest/simulated.h"
#include "base/format.h"
#include "crypto/hash.h"
#include "net/server.h"
#include "proto/kms_rpc.pb.h"
#include "proto/prpc.pb.h"
#include "rpc/service.h"

namespace dstack::host {
namespace {

const base::Bytes k_seed(32, 0x5e);
const base::Bytes k_image(32, 0x01);
const base::Bytes k_code(32, 0xc0);

struct MachineOptions {
  base::Bytes seed = k_seed;
  std::string name = "10.0.2.2";
  std::string usage = "kms:rpc";
  bool evidence = true;
};

crypto::CertificateAuthority make_root() {
  crypto::CertificateProfile profile;
  profile.common_name = "Dstack KMS CA";
  profile.ca_path_length = 1;
  auto key = crypto::P256Key::generate().value();
  auto certificate = crypto::self_sign(profile, key).value();
  return crypto::make_ca(std::move(key), std::move(certificate)).value();
}

class FakeKms {
 public:
  explicit FakeKms(const MachineOptions& options = {}) {
    crypto::CertificateProfile profile;
    profile.common_name = options.name;
    profile.alt_names = {options.name};
    profile.server_auth = true;
    profile.extensions = {attest::usage_extension(options.usage)};
    const auto key = crypto::P256Key::generate().value();
    attest::SimulatedEvidence source(attest::SimulatedPlatform::from_seed(options.seed).value(),
                                     base::format(R"({{"os_image_hash":"{}"}})", base::to_hex(k_image)), [] {
                                       return std::vector<attest::RuntimeEvent>{
                                           {"system-preparing", {}},
                                           {"app-id", base::Bytes(20, 0xaa)},
                                           {"compose-hash", k_code},
                                           {"instance-id", base::Bytes(20, 0x22)},
                                           {"boot-mr-done", {}}};
                                     });
    leaf = options.evidence
               ? attest::issue_with_evidence(profile, key.public_key(), root, source).value().der()
               : crypto::issue(profile, key.public_key(), root).value().der();
    service.on<prpc::Empty, kms::GetMetaResponse>(
        "GetMeta", [this](const rpc::Call&, const prpc::Empty&) -> base::Result<kms::GetMetaResponse> {
          kms::GetMetaResponse out;
          out.set_ca_cert(answered_ca);
          return out;
        });
    server = std::make_unique<net::Server>(
        [this](const net::Request& request) { return service.handle(request); });
    net::ServerTls tls;
    tls.certificate_chain_pem = crypto::Certificate::from_der(leaf).value().pem();
    tls.private_key_pem = std::string(key.pkcs8_pem().text());
    port = server->listen_tcp("127.0.0.1", 0, tls).value();
    server->start();
  }

  crypto::CertificateAuthority root = make_root();
  std::string answered_ca = root.certificate.pem();
  base::Bytes leaf;
  rpc::Service service{"/prpc"};
  std::uint16_t port = 0;
  std::unique_ptr<net::Server> server;  // last: it stops before the rest goes
};

KmsExpectation expecting(const FakeKms& kms) {
  KmsExpectation out;
  out.port = kms.port;
  out.anchors = attest::TrustAnchors::insecure_simulated(
                    attest::SimulatedPlatform::from_seed(k_seed).value().root_pem())
                    .value();
  out.compose_hash = base::to_hex(k_code);
  out.os_image_hash = base::to_hex(k_image);
  return out;
}

void expect_wrong(const KmsExpectation& expected, const std::string& why) {
  const auto contact = contact_kms(expected);
  ASSERT_FALSE(contact) << why;
  EXPECT_EQ(contact.error().code, base::Code::kms_identity) << contact.error().what();
  EXPECT_NE(contact.error().what().find(why), std::string::npos) << contact.error().what();
  EXPECT_FALSE(contact.error().fix.empty());
}

TEST(KmsContact, FirstContactGivesTheRootAndLaterOnesCheckIt) {
  const FakeKms kms;
  auto expected = expecting(kms);
  const auto first = contact_kms(expected);
  ASSERT_TRUE(first) << first.error().what();
  EXPECT_EQ(first->ca_pem, kms.root.certificate.pem());
  EXPECT_EQ(first->ca_sha256, base::to_hex(crypto::sha256(kms.root.certificate.der())));
  EXPECT_EQ(first->verdict.tcb_status, "Simulated");
  expected.pinned_ca_pem = first->ca_pem;
  EXPECT_TRUE(contact_kms(expected));
}

TEST(KmsContact, AnotherKmsBehindThePortIsRefused) {
  const FakeKms kms;
  const FakeKms impostor;
  auto expected = expecting(impostor);
  expected.pinned_ca_pem = kms.root.certificate.pem();
  expect_wrong(expected, "the root kept at install");
}

TEST(KmsContact, EvidenceIsRequiredAndMustBeOfThisHost) {
  expect_wrong(expecting(FakeKms({.evidence = false})), "evidence");
  expect_wrong(expecting(FakeKms({.seed = base::Bytes(32, 0x77)})), "evidence");
  const FakeKms kms;
  auto expected = expecting(kms);
  expected.anchors = {};
  expect_wrong(expected, "evidence");
}

TEST(KmsContact, OnlyAKmsCertificateForTheRightNameCounts) {
  expect_wrong(expecting(FakeKms({.usage = "app:custom"})), "evidence");
  expect_wrong(expecting(FakeKms({.name = "10.0.2.3"})), "10.0.2.2");
}

TEST(KmsContact, OtherCodeOrImageIsRefused) {
  const FakeKms kms;
  auto expected = expecting(kms);
  expected.compose_hash = std::string(64, '0');
  expect_wrong(expected, "other code");
  expected = expecting(kms);
  expected.os_image_hash = std::string(64, '0');
  expect_wrong(expected, "another guest image");
}

TEST(KmsContact, TheRootThatItNamesMustBeItsIssuer) {
  FakeKms kms;
  kms.answered_ca = make_root().certificate.pem();
  expect_wrong(expecting(kms), "the root that it names");
}

TEST(KmsContact, NotReadyYet) {
  FakeKms kms;
  kms.answered_ca.clear();
  auto expected = expecting(kms);
  EXPECT_EQ(contact_kms(expected).error().code, base::Code::kms_not_ready);
  kms.server->stop();
  kms.server.reset();
  const auto nobody = contact_kms(expected);
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, base::Code::kms_not_ready);
}

TEST(KmsContact, GarbageCertificatesAreErrors) {
  KmsExpectation expected;
  const auto now = static_cast<std::int64_t>(std::time(nullptr));
  EXPECT_FALSE(check_kms_leaf({}, expected, now));
  const auto junk = base::to_bytes("junk");
  EXPECT_FALSE(check_kms_leaf(junk, expected, now));
}

}  // namespace
}  // namespace dstack::host
