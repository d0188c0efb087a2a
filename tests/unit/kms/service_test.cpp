#include "kms/service.h"

#include <gtest/gtest.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "attest/report_data.h"
#include "attest/versioned.h"
#include "unit/kms/fakes.h"

// Inside dstack, because the messages' package is called kms as well.
namespace dstack {
namespace {

using base::Bytes;
using base::from_hex;
using kms::fakes::anchors;
using kms::fakes::FakeWebhook;
using kms::fakes::k_app_a;
using kms::fakes::k_app_b;
using kms::fakes::k_image_1;
using kms::fakes::k_image_2;
using kms::fakes::machine;
using kms::fakes::vm_config;
using nlohmann::json;

class ServiceTest : public testing::Test {
 protected:
  ServiceTest() { m_hook.allow(); }

  static kms::Config make_config() {
    kms::Config config;
    config.anchors = anchors();
    config.enforce_self_authorization = false;
    return config;
  }

  struct Answer {
    int status;
    json body;
    std::string error() const { return body.value("error", ""); }
  };
  Answer call(const std::string& method, const json& request, const Bytes& certificate = {}) {
    net::Request http;
    http.method = "POST";
    http.path = "/prpc/" + method;
    http.query = "json";
    http.body = request.dump();
    http.peer.certificate_der = certificate;
    const auto response = m_service.handle(http);
    return {response.status, json::parse(response.body, nullptr, false)};
  }

  // A client certificate as a guest makes it.
  Bytes certificate_of(attest::EvidenceSource& evidence) {
    crypto::CertificateProfile profile;
    profile.common_name = "RA-TLS TEMP Cert";
    return attest::issue_with_evidence(profile, crypto::P256Key::generate()->public_key(), m_keys.temp_ca,
                                       evidence)
        ->der();
  }
  Bytes certificate_of(attest::SimulatedEvidence&& evidence) { return certificate_of(evidence); }

  FakeWebhook m_hook;
  kms::Config m_config = make_config();
  kms::RootKeys m_keys = kms::generate_root_keys().value();
  kms::Webhook m_webhook{net::Endpoint::parse(m_hook.url()).value(), std::chrono::seconds(5)};
  attest::SimulatedEvidence m_own = machine(Bytes(20, 0x99));
  kms::SelfAuthorization m_self{false, m_own, m_config.anchors, m_webhook};
  kms::KmsService m_service{m_config, m_keys, m_webhook, m_self,
                            [] { return std::int64_t{std::time(nullptr)}; }};
};

std::string hex(base::ByteView bytes) {
  return base::to_hex(bytes);
}

TEST_F(ServiceTest, ReleasesKeysToAVerifiedAndAllowedApp) {
  const auto answer = call("GetAppKey", {{"api_version", 1}, {"vm_config", vm_config(k_image_1)}},
                           certificate_of(machine(k_app_a)));
  ASSERT_EQ(answer.status, 200) << answer.body;
  const auto expected = kms::derive_app_secrets(m_keys, k_app_a, Bytes(20, 0x22)).value();
  EXPECT_EQ(answer.body["disk_crypt_key"], hex(expected.disk_key.view()));
  EXPECT_EQ(answer.body["env_crypt_key"], hex(expected.env_key.view()));
  EXPECT_EQ(answer.body["k256_key"], hex(expected.k256.scalar().view()));
  EXPECT_EQ(answer.body["k256_signature"], hex(expected.k256_signature));
  EXPECT_EQ(answer.body["ca_cert"], m_keys.root_ca.certificate.pem());
  EXPECT_EQ(answer.body["gateway_app_id"], "gate");
  EXPECT_EQ(answer.body["tproxy_app_id"], "gate");
  EXPECT_EQ(answer.body["os_image_hash"], hex(k_image_1));
  const auto asked = m_hook.requests();
  ASSERT_EQ(asked.size(), 1U);
  EXPECT_EQ(asked[0].path, "/bootAuth/app");
  const auto boot = json::parse(asked[0].body);
  EXPECT_EQ(boot["appId"], hex(k_app_a));
  EXPECT_EQ(boot["osImageHash"], hex(k_image_1));
  EXPECT_EQ(boot["tcbStatus"], "Simulated");
}

TEST_F(ServiceTest, NoEvidenceNoKeysAndNoQuestion) {
  const auto none = call("GetAppKey", {{"api_version", 1}});
  EXPECT_EQ(none.status, 400);
  EXPECT_EQ(none.error(), "App not allowed: No attestation provided");
  crypto::CertificateProfile profile;
  profile.common_name = "bare";
  const auto bare = crypto::issue(profile, crypto::P256Key::generate()->public_key(), m_keys.temp_ca).value();
  EXPECT_EQ(call("GetAppKey", {{"api_version", 1}}, bare.der()).error(),
            "App not allowed: No attestation provided");
  EXPECT_TRUE(m_hook.requests().empty());
}

TEST_F(ServiceTest, EvidenceThatDoesNotVerifyIsRefusedBeforeEveryMethod) {
  // Another platform's root.
  const auto foreign = certificate_of(machine(k_app_a, k_image_1, Bytes(32, 1)));
  // Evidence made for another key.
  auto source = machine(k_app_a);
  const auto other = crypto::P256Key::generate().value();
  crypto::CertificateProfile profile;
  profile.common_name = "thief";
  profile.extensions = {
      attest::attestation_extension(*source.attest(attest::ra_tls_report_data(other.spki()))).value()};
  const auto stolen =
      crypto::issue(profile, crypto::P256Key::generate()->public_key(), m_keys.temp_ca)->der();
  for (const auto& certificate : {foreign, stolen}) {
    const auto answer = call("GetAppKey", {{"api_version", 1}}, certificate);
    EXPECT_EQ(answer.status, 400);
    EXPECT_TRUE(answer.error().starts_with("the client's evidence is refused: ")) << answer.error();
    EXPECT_EQ(call("GetAppEnvEncryptPubKey", {{"app_id", hex(k_app_a)}}, certificate).status, 400);
  }
  EXPECT_TRUE(m_hook.requests().empty());
}

TEST_F(ServiceTest, AnotherVmsConfigDoesNotHelp) {
  // App A runs on image 1 and claims B's configuration, that of image 2.
  const auto answer = call("GetAppKey", {{"api_version", 1}, {"vm_config", vm_config(k_image_2)}},
                           certificate_of(machine(k_app_a)));
  EXPECT_EQ(answer.status, 400);
  EXPECT_TRUE(answer.error().starts_with("App not allowed: the measured boot is not that of OS image 0202"))
      << answer.error();
  EXPECT_EQ(
      call("GetAppKey", {{"api_version", 1}, {"vm_config", "{}"}}, certificate_of(machine(k_app_a))).status,
      400);
  EXPECT_TRUE(m_hook.requests().empty());
}

TEST_F(ServiceTest, AnAppOnlyGetsItsOwnKeys) {
  const auto a = call("GetAppKey", {{"api_version", 1}}, certificate_of(machine(k_app_a)));
  const auto b = call("GetAppKey", {{"api_version", 1}}, certificate_of(machine(k_app_b)));
  ASSERT_EQ(a.status, 200);
  ASSERT_EQ(b.status, 200);
  for (const char* key : {"disk_crypt_key", "env_crypt_key", "k256_key"}) {
    EXPECT_NE(a.body[key], b.body[key]) << key;
  }
}

TEST_F(ServiceTest, TheWebhooksRefusalIsPassedOn) {
  m_hook.deny("compose hash not allowed");
  const auto answer = call("GetAppKey", {{"api_version", 1}}, certificate_of(machine(k_app_a)));
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.error(), "App not allowed: Boot denied: compose hash not allowed");
  // The next question is asked anew.
  m_hook.allow();
  EXPECT_EQ(call("GetAppKey", {{"api_version", 1}}, certificate_of(machine(k_app_a))).status, 200);
}

TEST_F(ServiceTest, AWebhookWithoutAProperAnswerMeansNo) {
  const auto certificate = certificate_of(machine(k_app_a));
  for (const char* body : {"<html></html>", R"({"isAllowed":"true","gatewayAppId":"","reason":""})",
                           R"({"isAllowed":true,"reason":""})", ""}) {
    m_hook.set_body(body);
    const auto answer = call("GetAppKey", {{"api_version", 1}}, certificate);
    EXPECT_EQ(answer.status, 400) << body;
    EXPECT_FALSE(answer.body.contains("disk_crypt_key"));
  }
  m_hook.set_body(R"({"isAllowed":true,"gatewayAppId":"","reason":""})", 500);
  EXPECT_EQ(call("GetAppKey", {{"api_version", 1}}, certificate).status, 400);
}

TEST_F(ServiceTest, AppIdsOfAnotherLengthAreRefused) {
  const auto answer = call("GetAppKey", {{"api_version", 1}}, certificate_of(machine(Bytes(19, 1))));
  EXPECT_EQ(answer.error(), "App not allowed: app_id must be 20 bytes");
  EXPECT_EQ(call("GetAppKey", {{"api_version", 1}}, certificate_of(machine({}))).error(),
            "App not allowed: app_id must be 20 bytes");
}

TEST_F(ServiceTest, NewerApiVersionsAreRefused) {
  EXPECT_EQ(call("GetAppKey", {{"api_version", 2}}).error(), "Unsupported API version");
  EXPECT_EQ(call("SignCert", {{"api_version", 1}}).error(), "Unsupported API version");
  EXPECT_EQ(call("SignCert", {{"api_version", 3}}).error(), "Unsupported API version");
}

TEST_F(ServiceTest, MetaNamesTheKeysOfThisKms) {
  const auto answer = call("GetMeta", json::object());
  ASSERT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body["ca_cert"], m_keys.root_ca.certificate.pem());
  EXPECT_EQ(answer.body["k256_pubkey"], hex(m_keys.k256.public_key()));
  EXPECT_EQ(answer.body["is_dev"], false);
  EXPECT_EQ(answer.body["allow_any_upgrade"], false);
  EXPECT_TRUE(answer.body["bootstrap_info"].is_null());
}

TEST_F(ServiceTest, TempCaComesWithItsKey) {
  const auto answer = call("GetTempCaCert", json::object());
  ASSERT_EQ(answer.status, 200);
  EXPECT_TRUE(crypto::load_ca(answer.body["temp_ca_key"].get<std::string>(),
                              answer.body["temp_ca_cert"].get<std::string>()));
  EXPECT_EQ(answer.body["ca_cert"], m_keys.root_ca.certificate.pem());
}

TEST_F(ServiceTest, EnvKeyNeedsNoEvidenceButAProperId) {
  const auto answer = call("GetAppEnvEncryptPubKey", {{"app_id", hex(k_app_a)}});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const auto key = kms::derive_env_public_key(m_keys, k_app_a, 0).value();
  EXPECT_EQ(answer.body["public_key"], hex(key.key));
  EXPECT_EQ(answer.body["signature"], hex(key.signature));
  EXPECT_NEAR(answer.body["timestamp"].get<double>(), static_cast<double>(std::time(nullptr)), 5);
  EXPECT_EQ(call("GetAppEnvEncryptPubKey", {{"app_id", "aabb"}}).error(), "app_id must be 20 bytes");
}

TEST_F(ServiceTest, SelfAuthorizationGatesWhatItMust) {
  kms::SelfAuthorization self(true, m_own, m_config.anchors, m_webhook);
  kms::KmsService service(m_config, m_keys, m_webhook, self, [] { return std::int64_t{std::time(nullptr)}; });
  const auto ask = [&] {
    net::Request http;
    http.method = "POST";
    http.path = "/prpc/KMS.GetTempCaCert";
    http.query = "json";
    return service.handle(http);
  };
  m_hook.allow();
  EXPECT_EQ(ask().status, 200);
  EXPECT_EQ(m_hook.requests().back().path, "/bootAuth/kms");
  m_hook.deny("kms mrAggregated not allowed");
  const auto denied = ask();
  EXPECT_EQ(denied.status, 400);
  EXPECT_NE(
      denied.body.find("KMS self authorization failed: KMS is not allowed: kms mrAggregated not allowed"),
      std::string::npos)
      << denied.body;
}

TEST_F(ServiceTest, HealthMetricsAndUnknownPaths) {
  const auto get = [&](const std::string& path) {
    net::Request http;
    http.path = path;
    return m_service.handle(http);
  };
  EXPECT_EQ(get("/health").body, "OK");
  call("GetAppKey", {{"api_version", 1}});
  call("GetAppKey", {{"api_version", 1}}, certificate_of(machine(k_app_a)));
  const auto metrics = get("/metrics").body;
  EXPECT_NE(metrics.find("dstack_kms_attestation_requests_total 2\n"), std::string::npos);
  EXPECT_NE(metrics.find("dstack_kms_attestation_failures_total 1\n"), std::string::npos);
  EXPECT_EQ(get("/").status, 404);
  EXPECT_EQ(get("/finish").status, 404);
  EXPECT_EQ(call("GetKmsKey", json::object()).error(), "Service not found: GetKmsKey");
}

struct SignedRequest {
  crypto::P256Key key = crypto::P256Key::generate().value();
  attest::CertificateRequest csr;

  explicit SignedRequest(attest::EvidenceSource& evidence) {
    csr.public_key = key.spki();
    csr.subject = "app.example";
    csr.alt_names = {"app.example", "127.0.0.1"};
    csr.server_auth = true;
    csr.ext_quote = true;
    csr.attestation = attest::Attestation::decode(*evidence.attest(attest::ra_tls_report_data(key.spki())))
                          ->stripped()
                          .encode();
  }
  json message() const {
    const auto bytes = csr.encode();
    return {{"api_version", 2}, {"csr", hex(bytes)}, {"signature", hex(*key.sign_der(bytes))}};
  }
};

TEST_F(ServiceTest, SignsACertificateForAnAllowedApp) {
  auto source = machine(k_app_a);
  const SignedRequest request(source);
  const auto answer = call("SignCert", request.message());
  ASSERT_EQ(answer.status, 200) << answer.body;
  ASSERT_EQ(answer.body["certificate_chain"].size(), 3U);
  std::vector<crypto::Certificate> chain;
  for (const auto& pem : answer.body["certificate_chain"]) {
    chain.push_back(crypto::Certificate::from_pem(pem.get<std::string>()).value());
  }
  EXPECT_TRUE(crypto::verify_chain(chain, std::span(&m_keys.root_ca.certificate, 1), std::time(nullptr)));
  EXPECT_EQ(chain[0].spki(), request.key.spki());
  EXPECT_EQ(chain[0].alt_names(), request.csr.alt_names);
  EXPECT_FALSE(chain[0].is_ca());
  const auto claims = attest::read_claims(chain[0]).value();
  EXPECT_EQ(claims.usage, "app:custom");
  EXPECT_EQ(claims.app_id, k_app_a);
  EXPECT_TRUE(claims.attestation);
  EXPECT_EQ(chain[1].common_name(), "Dstack App CA");
  EXPECT_EQ(m_hook.requests().back().path, "/bootAuth/app");
}

TEST_F(ServiceTest, BootTimeIdentityIsTheSameInBothCalls) {
  call("GetAppKey", {{"api_version", 1}}, certificate_of(machine(k_app_a)));
  // Later, more events are in the log.
  attest::SimulatedEvidence later(attest::SimulatedPlatform::from_seed(kms::fakes::k_seed).value(),
                                  vm_config(k_image_1), [] {
                                    auto events = kms::fakes::launch_of(k_app_a);
                                    events.push_back({"key-provider", base::to_bytes("{}")});
                                    events.push_back({"system-ready", {}});
                                    return events;
                                  });
  ASSERT_EQ(call("SignCert", SignedRequest(later).message()).status, 200);
  const auto asked = m_hook.requests();
  ASSERT_EQ(asked.size(), 2U);
  EXPECT_EQ(json::parse(asked[0].body)["mrAggregated"], json::parse(asked[1].body)["mrAggregated"]);
  EXPECT_EQ(json::parse(asked[0].body)["mrSystem"], json::parse(asked[1].body)["mrSystem"]);
  EXPECT_EQ(json::parse(asked[1].body)["keyProviderInfo"], "");
}

TEST_F(ServiceTest, BadCertificateRequestsAreRefused) {
  auto source = machine(k_app_a);
  const SignedRequest good(source);
  auto unsigned_request = good.message();
  unsigned_request["signature"] = hex(*crypto::P256Key::generate()->sign_der(good.csr.encode()));
  EXPECT_EQ(call("SignCert", unsigned_request).error(),
            "the certificate request is not signed by its own key");

  SignedRequest other_key(source);
  other_key.csr.attestation = good.csr.attestation;  // evidence for good's key
  EXPECT_TRUE(
      call("SignCert", other_key.message()).error().starts_with("the evidence in the certificate request"));

  SignedRequest without(source);
  without.csr.attestation.clear();
  EXPECT_EQ(call("SignCert", without.message()).status, 400);

  SignedRequest long_name(source);
  long_name.csr.subject = std::string(65, 'a');
  EXPECT_EQ(call("SignCert", long_name.message()).status, 400);

  SignedRequest inverted(source);
  inverted.csr.not_before = 2'000'000'000;
  inverted.csr.not_after = 1'900'000'000;
  EXPECT_EQ(call("SignCert", inverted.message()).status, 400);
  SignedRequest endless(source);
  endless.csr.not_after = UINT64_MAX;
  EXPECT_EQ(call("SignCert", endless.message()).status, 400);

  m_hook.deny("app not registered");
  EXPECT_EQ(call("SignCert", good.message()).error(), "App not allowed: Boot denied: app not registered");
}

}  // namespace
}  // namespace dstack
