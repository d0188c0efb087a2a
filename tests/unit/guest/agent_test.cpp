#include "guest/agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "attest/quote.h"
#include "attest/verifier.h"
#include "crypto/k256.h"
#include "crypto/x25519.h"
#include "net/client.h"
#include "net/server.h"
#include "unit/guest/evidence_fixture.h"
#include "unit/guest/temp_dir.h"

namespace dstack::guest {
namespace {

using testing::HasSubstr;

const std::vector<attest::RuntimeEvent> k_events{{"system-preparing", {}},
                                                 {"app-id", base::Bytes(20, 0x11)},
                                                 {"compose-hash", base::Bytes(32, 0x22)},
                                                 {"instance-id", base::Bytes(20, 0x33)},
                                                 {"boot-mr-done", {}},
                                                 {"key-provider", {'{', '}'}},
                                                 {"system-ready", {}}};

class AgentTest : public testing::Test {
 protected:
  AgentTest() {
    AgentContext context;
    context.app_compose = "{\"manifest_version\":2}";
    context.compose.name = "hello";
    context.identity = {base::Bytes(20, 0x11), base::Bytes(32, 0x22), base::Bytes(20, 0x33),
                        base::Bytes(20, 0x44)};
    context.vm_config = k_test_vm_config;
    context.keys = derive_seed_keys(base::Bytes(32, 5), m_evidence).value();
    context.sign = sign_with_ca(*context.keys.local_ca, context.identity.app_id, m_evidence);
    context.keys.keys.k256_key = crypto::Secret(*base::from_hex(k_test_k256));
    context.keys.keys.k256_signature = base::Bytes(65, 9);
    m_agent = std::make_unique<Agent>(std::move(context), m_evidence);
  }

  net::Response post(const std::string& method, const std::string& body) const {
    net::Request request;
    request.method = "POST";
    request.path = "/" + method;
    request.headers.set("Content-Type", "application/json");
    request.body = body;
    return m_agent->handle(request);
  }
  nlohmann::json answer(const std::string& method, const std::string& body) const {
    const auto response = post(method, body);
    EXPECT_EQ(response.status, 200) << response.body;
    return nlohmann::json::parse(response.body, nullptr, false);
  }
  std::string refusal(const std::string& method, const std::string& body) const {
    const auto response = post(method, body);
    EXPECT_EQ(response.status, 400) << response.body;
    const auto json = nlohmann::json::parse(response.body, nullptr, false);
    return json.is_object() ? json.value("error", "") : "";
  }

  attest::SimulatedEvidence m_evidence = make_test_evidence(k_events);
  std::unique_ptr<Agent> m_agent;
};

// spec/guest-kms.md section 4.4, "Key determinism vector".
TEST_F(AgentTest, KeysFollowTheVector) {
  const auto secp = answer("GetKey", R"({"path":"vms","purpose":"signing","algorithm":"secp256k1"})");
  const auto ed = answer("GetKey", R"({"path":"vms","purpose":"signing","algorithm":"ed25519"})");
  EXPECT_EQ(secp["key"], ed["key"]);
  const auto scalar = base::from_hex(secp["key"].get<std::string>()).value();
  // "A6t_JdVkVdMAocH3f1f20WGT6JzdntxcXimUtEax8zc9" and "5Pbre1Amf1hrp2V2bbfKlIfxpQb2pJAmrgmhxgVoG9s" in
  // base64url.
  EXPECT_EQ(base::to_base64(crypto::K256Key::from_scalar(scalar).value().public_key()),
            "A6t/JdVkVdMAocH3f1f20WGT6JzdntxcXimUtEax8zc9");
  EXPECT_EQ(base::to_base64(crypto::ed25519_public(scalar).value()),
            "5Pbre1Amf1hrp2V2bbfKlIfxpQb2pJAmrgmhxgVoG9s=");
}

TEST_F(AgentTest, KeyChainIsSignedByTheAppKey) {
  const auto key = answer("GetKey", R"({"path":"p","purpose":"signing","algorithm":""})");
  const auto scalar = base::from_hex(key["key"].get<std::string>()).value();
  const auto public_key = crypto::K256Key::from_scalar(scalar).value().public_key();
  const auto signature = base::from_hex(key["signature_chain"][0].get<std::string>()).value();
  EXPECT_EQ(signature.size(), 65u);
  const auto digest = crypto::keccak256(base::as_bytes("signing:" + base::to_hex(public_key)));
  const auto app_key = crypto::K256Key::from_scalar(*base::from_hex(k_test_k256)).value();
  EXPECT_EQ(crypto::k256_recover(digest, signature).value(), app_key.public_key());
  EXPECT_EQ(key["signature_chain"][1], base::to_hex(base::Bytes(65, 9)));
}

TEST_F(AgentTest, AlgorithmsAreAClosedList) {
  const auto key = answer("GetKey", R"({"path":"a"})")["key"];
  EXPECT_EQ(answer("GetKey", R"({"path":"a","algorithm":"k256"})")["key"], key);
  EXPECT_NE(answer("GetKey", R"({"path":"b"})")["key"], key);
  for (const char* algorithm : {"secp256k1_prehashed", "rsa", "K256"}) {
    EXPECT_EQ(refusal("GetKey", std::string(R"({"algorithm":")") + algorithm + "\"}"),
              "Unsupported algorithm");
  }
  EXPECT_THAT(refusal("GetKey", R"({"path":")" + std::string(5000, 'a') + "\"}"), HasSubstr("path"));
}

TEST_F(AgentTest, TlsKeysAreFreshAndChainToTheCa) {
  const std::string body =
      R"({"subject":"a.example","alt_names":["a.example","10.0.0.1"],"usage_ra_tls":true,)"
      R"("usage_server_auth":true,"usage_client_auth":false})";
  std::set<std::string> keys;
  for (int i = 0; i < 2; ++i) {
    const auto tls = answer("GetTlsKey", body);
    keys.insert(tls["key"].get<std::string>());
    ASSERT_EQ(tls["certificate_chain"].size(), 2u);
    const auto leaf = crypto::Certificate::from_pem(tls["certificate_chain"][0].get<std::string>()).value();
    const auto root = crypto::Certificate::from_pem(tls["certificate_chain"][1].get<std::string>()).value();
    const crypto::Certificate chain[] = {leaf};
    const crypto::Certificate anchors[] = {root};
    EXPECT_TRUE(crypto::verify_chain(chain, anchors, 1'800'000'000).has_value());
    EXPECT_EQ(leaf.common_name(), "a.example");
    const auto key = crypto::P256Key::from_pkcs8_pem(tls["key"].get<std::string>()).value();
    EXPECT_EQ(key.spki(), leaf.spki());
    const auto claims = attest::read_claims(leaf).value();
    EXPECT_EQ(claims.usage, "app:custom");
    EXPECT_EQ(claims.app_id, base::Bytes(20, 0x11));
    const auto trust = attest::TrustAnchors::insecure_simulated(m_evidence.platform().root_pem()).value();
    EXPECT_TRUE(attest::verify_certificate_evidence(leaf.der(), trust, 1'800'000'000).value().has_value());
  }
  EXPECT_EQ(keys.size(), 2u);
}

TEST_F(AgentTest, TlsArgumentsAreChecked) {
  EXPECT_EQ(refusal("GetTlsKey", R"({"not_before":100,"not_after":100})"),
            "not_before must be earlier than not_after");
  EXPECT_EQ(refusal("GetTlsKey", R"({"not_before":200,"not_after":100})"),
            "not_before must be earlier than not_after");
  const auto end = std::to_string(std::numeric_limits<std::uint64_t>::max());
  EXPECT_THAT(refusal("GetTlsKey", R"({"not_after":)" + end + "}"), HasSubstr("year 9999"));
  EXPECT_THAT(refusal("GetTlsKey", R"({"subject":")" + std::string(65, 'a') + "\"}"), HasSubstr("subject"));
  EXPECT_THAT(refusal("GetTlsKey", R"({"alt_names":[""]})"), HasSubstr("alt_name"));
  std::string names = "\"a\"";
  for (int i = 0; i < 64; ++i) {
    names += ",\"a\"";
  }
  EXPECT_THAT(refusal("GetTlsKey", R"({"alt_names":[)" + names + "]}"), HasSubstr("64 alt_names"));
}

TEST_F(AgentTest, QuotesCarryTheReportData) {
  const auto quote = answer("GetQuote", R"({"report_data":"74657374"})");
  const auto report_data = "74657374" + std::string(120, '0');
  EXPECT_EQ(quote["report_data"], report_data);
  EXPECT_EQ(quote["quote"].get<std::string>().substr(568 * 2, 128), report_data);
  EXPECT_EQ(quote["vm_config"], k_test_vm_config);
  const auto log = attest::events_from_json(quote["event_log"].get<std::string>()).value();
  EXPECT_EQ(attest::runtime_events(log), k_events);

  EXPECT_EQ(answer("GetQuote", R"({"report_data":")" + std::string(128, 'a') + "\"}")["report_data"],
            std::string(128, 'a'));
  for (const char* method : {"GetQuote", "Attest"}) {
    EXPECT_EQ(refusal(method, R"({"report_data":")" + std::string(130, 'a') + "\"}"),
              "Report data is too long");
  }
}

TEST_F(AgentTest, AttestationsVerify) {
  const auto reply = answer("Attest", R"({"report_data":"01"})");
  const auto bytes = base::from_hex(reply["attestation"].get<std::string>()).value();
  attest::ReportData expected{1};
  const auto anchors = attest::TrustAnchors::insecure_simulated(m_evidence.platform().root_pem()).value();
  const auto verdict = attest::verify(bytes, expected, anchors, 1'800'000'000);
  ASSERT_TRUE(verdict.has_value()) << verdict.error().what();
  EXPECT_EQ(verdict->identity.app_id, base::Bytes(20, 0x11));
  EXPECT_FALSE(attest::verify(bytes, attest::ReportData{2}, anchors, 1'800'000'000).has_value());
}

TEST_F(AgentTest, InfoHasWhatClientsParse) {
  const auto info = answer("Info", "");
  EXPECT_EQ(info["app_id"], std::string(40, '1'));
  EXPECT_EQ(info["compose_hash"], std::string(64, '2'));
  EXPECT_EQ(info["instance_id"], std::string(40, '3'));
  EXPECT_EQ(info["app_name"], "hello");
  EXPECT_EQ(info["key_provider_info"], R"({"name":"none","id":""})");
  const auto text = info["tcb_info"].get<std::string>();
  EXPECT_TRUE(text.starts_with("{\n  \"mrtd\": \""));
  const auto tcb = nlohmann::json::parse(text);
  for (const char* key : {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}) {
    EXPECT_EQ(tcb[key].get<std::string>().size(), 96u) << key;
  }
  for (const char* key : {"mr_aggregated", "os_image_hash", "compose_hash", "device_id"}) {
    EXPECT_EQ(tcb[key].get<std::string>().size(), 64u) << key;
  }
  EXPECT_EQ(tcb["device_id"], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(tcb["rtmr3"], base::to_hex(attest::replay(k_events)));
  EXPECT_EQ(tcb["event_log"].size(), k_events.size());
  EXPECT_EQ(tcb["app_compose"], "{\"manifest_version\":2}");
}

TEST_F(AgentTest, UnknownMethodsAndJunkAreRefused) {
  EXPECT_EQ(refusal("EmitEvent", "{}"), "Service not found: EmitEvent");
  EXPECT_FALSE(refusal("GetKey", "{").empty());
  EXPECT_FALSE(refusal("GetKey", R"({"path":5})").empty());
}

TEST_F(AgentTest, AnswersOnAUnixSocket) {
  const TempDir dir;
  net::Server server([this](const net::Request& request) { return m_agent->handle(request); });
  ASSERT_TRUE(server.listen_unix((dir / "s").string(), 0777).has_value());
  server.start();
  const net::Client client(net::Endpoint::parse("unix:" + (dir / "s").string()).value());
  net::Request request;
  request.method = "POST";
  request.path = "/Version";
  request.headers.set("Content-Type", "application/json");
  request.body = "{}";
  const auto response = client.send(request);
  ASSERT_TRUE(response.has_value()) << response.error().what();
  EXPECT_EQ(nlohmann::json::parse(response->body)["version"], DSTACK_VERSION);
  server.stop();
}

}  // namespace
}  // namespace dstack::guest
