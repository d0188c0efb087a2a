// The whole way of a key: KMS with TLS on loopback, its guest agent, the webhook, and the client that guests
// use.
#include <gtest/gtest.h>

#include <ctime>

#include "attest/report_data.h"
#include "base/fs.h"
#include "guest/kms_client.h"
#include "kms/agent_evidence.h"
#include "kms/kms.h"
#include "proto/agent_rpc.pb.h"
#include "rpc/client.h"
#include "rpc/service.h"
#include "unit/kms/fakes.h"
#include "unit/temp_dir.h"

namespace dstack {
namespace {

using base::Bytes;
using base::Code;
using kms::fakes::k_app_a;
using kms::fakes::k_image_1;
using kms::fakes::k_image_2;
using kms::fakes::machine;
using kms::fakes::vm_config;

// The agent of the VM that the KMS runs in.
class FakeAgent {
 public:
  explicit FakeAgent(const std::string& path)
      : m_evidence(machine(Bytes(20, 0x99))),
        m_service(""),
        m_server([this](const net::Request& request) { return m_service.handle(request); }) {
    m_service.on<dstack_guest::RawQuoteArgs, dstack_guest::AttestResponse>(
        "Attest", [this](const rpc::Call&, const auto& args) -> base::Result<dstack_guest::AttestResponse> {
          DS_TRY(auto data, attest::padded_report_data(base::as_bytes(args.report_data())));
          DS_TRY(auto attestation, m_evidence.attest(data));
          dstack_guest::AttestResponse response;
          response.set_attestation(base::to_text(attestation));
          return response;
        });
    EXPECT_TRUE(m_server.listen_unix(path));
    m_server.start();
  }

 private:
  attest::SimulatedEvidence m_evidence;
  rpc::Service m_service;
  net::Server m_server;
};

class KeyRelease : public testing::Test {
 protected:
  KeyRelease() {
    m_hook.allow();
    m_config.address = "127.0.0.1";
    m_config.port = 0;
    m_config.cert_dir = m_directory / "certs";
    m_config.enforce_self_authorization = false;
    m_config.webhook_url = m_hook.url();
    m_config.auto_bootstrap_domain = "127.0.0.1";
    m_config.anchors = kms::fakes::anchors();
  }
  std::string socket() const { return (m_directory / "agent.sock").string(); }

  void start() {
    auto opened = kms::Kms::open(m_config, m_evidence);
    ASSERT_TRUE(opened) << opened.error().what();
    m_kms = *std::move(opened);
    m_kms->server().start();
    m_options.url = base::format("https://127.0.0.1:{}", m_kms->port());
    m_options.vm_config = vm_config(k_image_1);
    m_options.anchors = kms::fakes::anchors();
    m_options.kms_evidence_required = m_config.attest_rpc_cert;
  }

  test::TempDir m_directory;
  kms::fakes::FakeWebhook m_hook;
  FakeAgent m_agent{socket()};
  kms::AgentEvidence m_evidence{"unix:" + socket(), std::chrono::milliseconds(0)};
  kms::Config m_config;
  std::unique_ptr<kms::Kms> m_kms;
  guest::KmsOptions m_options;
};

}  // namespace

TEST_F(KeyRelease, AGuestGetsTheKeysThatFollowFromTheRoot) {
  start();
  auto app = machine(k_app_a);
  const auto keys = guest::get_app_keys(m_options, app);
  ASSERT_TRUE(keys) << keys.error().what();
  const auto expected = kms::derive_app_secrets(m_kms->keys(), k_app_a, Bytes(20, 0x22)).value();
  EXPECT_TRUE(base::equal_constant_time(keys->disk_crypt_key.view(), expected.disk_key.view()));
  EXPECT_TRUE(base::equal_constant_time(keys->env_crypt_key.view(), expected.env_key.view()));
  EXPECT_TRUE(base::equal_constant_time(keys->k256_key.view(), expected.k256.scalar().view()));
  EXPECT_EQ(keys->k256_signature, base::to_bytes(base::ByteView(expected.k256_signature)));
  EXPECT_EQ(keys->ca_spki, m_kms->keys().root_ca.key.spki());
  EXPECT_EQ(keys->gateway_app_id, "gate");
  EXPECT_EQ(keys->os_image_hash, k_image_1);
}

TEST_F(KeyRelease, KeysSurviveARestartAndTheServerCertificateDoesNot) {
  start();
  auto app = machine(k_app_a);
  const auto before = guest::get_app_keys(m_options, app).value();
  const auto certificate = *base::read_file(m_config.cert_dir / "rpc.crt");
  m_kms.reset();
  start();
  const auto after = guest::get_app_keys(m_options, app).value();
  EXPECT_TRUE(base::equal_constant_time(before.disk_crypt_key.view(), after.disk_crypt_key.view()));
  EXPECT_EQ(before.ca_cert_pem, after.ca_cert_pem);
  EXPECT_NE(*base::read_file(m_config.cert_dir / "rpc.crt"), certificate);
}

TEST_F(KeyRelease, DenialsReachTheGuestInTheKmssWords) {
  start();
  m_hook.deny("os image not allowed");
  auto app = machine(k_app_a);
  const auto keys = guest::get_app_keys(m_options, app);
  ASSERT_FALSE(keys);
  EXPECT_EQ(keys.error().what(), "App not allowed: Boot denied: os image not allowed");
  EXPECT_EQ(keys.error().code, Code::kms_refused);
  EXPECT_FALSE(keys.error().fix.empty());
}

TEST_F(KeyRelease, ForeignAndMismatchedEvidenceGetsNothing) {
  start();
  auto foreign = machine(k_app_a, k_image_1, Bytes(32, 1));
  EXPECT_EQ(guest::get_app_keys(m_options, foreign).error().code, Code::evidence_untrusted);
  m_options.vm_config = vm_config(k_image_2);
  auto app = machine(k_app_a);
  EXPECT_EQ(guest::get_app_keys(m_options, app).error().code, Code::evidence_binding);
  EXPECT_TRUE(m_hook.requests().empty());
}

TEST_F(KeyRelease, AClientCertificateOfAnotherCaEndsTheHandshake) {
  start();
  auto other = kms::generate_root_keys().value();
  auto app = machine(k_app_a);
  const auto key = crypto::P256Key::generate().value();
  crypto::CertificateProfile profile;
  profile.common_name = "RA-TLS TEMP Cert";
  const auto certificate = attest::issue_with_evidence(profile, key.public_key(), other.temp_ca, app).value();
  net::ClientOptions options;
  options.tls.ca_pem = m_kms->keys().root_ca.certificate.pem();
  options.tls.certificate_chain_pem = certificate.pem();
  options.tls.private_key_pem = std::string(key.pkcs8_pem().text());
  const rpc::Client client(net::Client(net::Endpoint::parse(m_options.url).value(), options), "/prpc");
  ::kms::GetAppKeyRequest request;
  request.set_api_version(1);
  const auto answer = client.call<::kms::AppKeyResponse>("GetAppKey", request);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::tls) << answer.error().what();
  EXPECT_TRUE(m_hook.requests().empty());
}

TEST_F(KeyRelease, WithoutAClientCertificateThereAreNoKeys) {
  start();
  net::ClientOptions options;
  options.tls.ca_pem = m_kms->keys().root_ca.certificate.pem();
  const rpc::Client client(net::Client(net::Endpoint::parse(m_options.url).value(), options), "/prpc");
  ::kms::GetAppKeyRequest request;
  request.set_api_version(1);
  const auto answer = client.call<::kms::AppKeyResponse>("GetAppKey", request);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().what(), "App not allowed: No attestation provided");
}

TEST_F(KeyRelease, AGuestRefusesAKmsThatIsNotTheOneItWants) {
  start();
  auto app = machine(k_app_a);
  auto options = m_options;
  options.expected_ca_spki = crypto::P256Key::generate()->spki();
  EXPECT_EQ(guest::get_app_keys(options, app).error().code, Code::bad_certificate);
  // Evidence under a root that this guest does not trust.
  options = m_options;
  options.anchors = attest::TrustAnchors();
  EXPECT_FALSE(guest::get_app_keys(options, app));
  options.url = "http://127.0.0.1:1";
  EXPECT_EQ(guest::get_app_keys(options, app).error().code, Code::invalid_argument);
  EXPECT_TRUE(m_hook.requests().empty());
}

TEST_F(KeyRelease, AKmsWithoutEvidenceIsTakenOnlyWhenThatIsAllowed) {
  m_config.attest_rpc_cert = false;
  start();
  auto app = machine(k_app_a);
  EXPECT_TRUE(guest::get_app_keys(m_options, app));
  m_options.kms_evidence_required = true;
  EXPECT_FALSE(guest::get_app_keys(m_options, app));
}

TEST_F(KeyRelease, ALeafOfTheAppsCaCannotPlayTheKms) {
  start();
  auto app = machine(k_app_a);
  attest::CertificateRequest request;
  request.subject = "127.0.0.1";
  request.alt_names = {"127.0.0.1"};
  request.server_auth = true;
  request.ext_quote = true;
  const auto key = crypto::P256Key::generate().value();
  const auto keys = guest::get_app_keys(m_options, app).value();
  const auto chain = guest::sign_certificate(m_options, keys.ca_cert_pem, key, request, app);
  ASSERT_TRUE(chain) << chain.error().what();
  ASSERT_EQ(chain->size(), 3U);
  // It chains to the KMS root and carries good evidence, but its usage is app:custom.
  net::Server impostor(
      [&](const net::Request&) { return net::Response::json(200, R"({"certificate_chain":[]})"); });
  net::ServerTls tls;
  tls.certificate_chain_pem = (*chain)[0] + (*chain)[1];
  tls.private_key_pem = std::string(key.pkcs8_pem().text());
  const auto port = impostor.listen_tcp("127.0.0.1", 0, tls).value();
  impostor.start();
  auto options = m_options;
  options.url = base::format("https://127.0.0.1:{}", port);
  const auto fooled = guest::sign_certificate(options, keys.ca_cert_pem, key, request, app);
  ASSERT_FALSE(fooled);
  EXPECT_NE(fooled.error().what().find("not a KMS"), std::string::npos) << fooled.error().what();
}

TEST_F(KeyRelease, NoAgentNoKms) {
  kms::AgentEvidence nobody("unix:" + (m_directory / "missing.sock").string(), std::chrono::milliseconds(0));
  const auto opened = kms::Kms::open(m_config, nobody);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().what().find("gives no evidence"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(m_config.cert_dir));
}

TEST_F(KeyRelease, KeysAreNotMadeWithoutADomain) {
  m_config.auto_bootstrap_domain.clear();
  const auto opened = kms::Kms::open(m_config, m_evidence);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Code::kms_keys);
  EXPECT_FALSE(std::filesystem::exists(m_config.cert_dir));
}

TEST_F(KeyRelease, ADeniedKmsMakesNoKeys) {
  m_config.enforce_self_authorization = true;
  m_hook.deny("kms mrAggregated not allowed");
  const auto opened = kms::Kms::open(m_config, m_evidence);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().what(), "boot denied: KMS is not allowed: kms mrAggregated not allowed");
  EXPECT_FALSE(std::filesystem::exists(m_config.cert_dir));
  m_hook.allow();
  start();
}

}  // namespace dstack
