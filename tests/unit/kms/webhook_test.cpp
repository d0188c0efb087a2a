#include "kms/webhook.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "unit/kms/fakes.h"

using namespace dstack;
using base::Code;
using kms::fakes::FakeWebhook;

namespace {

attest::Verdict verdict() {
  attest::Verdict out;
  out.tee_variant = "dstack-tdx";
  out.tcb_status = "Simulated";
  out.identity.app_id = base::Bytes(20, 0x11);
  out.identity.compose_hash = base::Bytes(32, 0xAB);
  out.identity.os_image_hash = base::Bytes(32, 0x44);
  return out;
}

kms::Webhook client(const std::string& url, std::chrono::milliseconds timeout = std::chrono::seconds(5)) {
  return kms::Webhook(net::Endpoint::parse(url).value(), timeout);
}

}  // namespace

TEST(Webhook, SendsTheWireFormOfABoot) {
  const auto json = nlohmann::json::parse(kms::boot_info_json(verdict()));
  const char* const keys[] = {"teeVariant",      "mrAggregated", "osImageHash", "mrSystem",
                              "appId",           "composeHash",  "instanceId",  "deviceId",
                              "keyProviderInfo", "tcbStatus",    "advisoryIds"};
  EXPECT_EQ(json.size(), std::size(keys));
  for (const char* key : keys) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["appId"], "1111111111111111111111111111111111111111");
  EXPECT_EQ(json["composeHash"].get<std::string>().substr(0, 4), "abab");
  EXPECT_EQ(json["tcbStatus"], "Simulated");
  EXPECT_TRUE(json["advisoryIds"].is_array());
  EXPECT_EQ(json["keyProviderInfo"], "");
}

TEST(Webhook, PostsToTheRightPath) {
  FakeWebhook hook;
  hook.allow();
  const auto asked = client(hook.url()).ask_app(verdict());
  ASSERT_TRUE(asked) << asked.error().what();
  EXPECT_TRUE(asked->allowed);
  EXPECT_EQ(asked->gateway_app_id, "gate");
  ASSERT_TRUE(client(hook.url() + "/prefix/").ask_kms(verdict()));
  const auto requests = hook.requests();
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_EQ(requests[0].method, "POST");
  EXPECT_EQ(requests[0].path, "/bootAuth/app");
  EXPECT_EQ(requests[0].headers.get("Content-Type"), "application/json");
  EXPECT_TRUE(requests[0].headers.get("User-Agent")->starts_with("dstack-kms/"));
  EXPECT_EQ(requests[1].path, "/prefix/bootAuth/kms");
}

TEST(Webhook, EveryFieldIsRequiredWithItsType) {
  EXPECT_TRUE(kms::parse_permission(R"({"isAllowed":false,"gatewayAppId":"","reason":"x","more":1})"));
  for (const char* text :
       {"", "null", "[]", "true", "<html>ok</html>", "{}",
        R"({"isAllowed":"true","gatewayAppId":"","reason":""})",
        R"({"isAllowed":1,"gatewayAppId":"","reason":""})", R"({"isAllowed":true,"reason":""})",
        R"({"isAllowed":true,"gatewayAppId":""})", R"({"isAllowed":true,"gatewayAppId":null,"reason":""})",
        R"({"isAllowed":true,"gatewayAppId":"","reason":7})", R"({"gatewayAppId":"","reason":""})",
        R"({"isAllowed":false,"isAllowed":true,"gatewayAppId":"","reason":""})",
        R"({"isAllowed":true,"gatewayAppId":"","reason":""} x)",
        R"({"isAllowed":true,"gatewayAppId":"","reason":"")"}) {
    const auto permission = kms::parse_permission(text);
    ASSERT_FALSE(permission) << text;
    EXPECT_EQ(permission.error().code, Code::kms_webhook) << text;
  }
}

TEST(Webhook, AnythingButAProperAnswerIsARefusal) {
  FakeWebhook hook;
  const auto refused = [&] { return !client(hook.url()).ask_app(verdict()).has_value(); };
  const std::string yes = R"({"isAllowed":true,"gatewayAppId":"","reason":""})";
  for (const int status : {301, 302, 400, 404, 500, 503}) {
    hook.set([&](const net::Request&) {
      auto response = net::Response::json(status, yes);
      response.headers.set("Location", "/elsewhere");
      return response;
    });
    EXPECT_TRUE(refused()) << status;
  }
  hook.set_body("<html>welcome</html>");
  EXPECT_TRUE(refused());
  hook.set_body("{\"isAllowed\":true,\"gatewayAppId\":\"\",\"reason\":\"" + std::string(100'000, 'x') +
                "\"}");
  EXPECT_TRUE(refused());
  hook.set_body(yes);
  EXPECT_FALSE(refused());
}

TEST(Webhook, AnErrorShowsOnlyTheBeginningOfTheBody) {
  FakeWebhook hook;
  hook.set_body("\x1b[31m" + std::string(2000, 'y'), 500);
  const auto asked = client(hook.url()).ask_app(verdict());
  ASSERT_FALSE(asked);
  EXPECT_LT(asked.error().what().size(), 700U);
  EXPECT_EQ(asked.error().what().find('\x1b'), std::string::npos);
}

TEST(Webhook, DownAndSlowAreErrors) {
  std::string gone;
  {
    FakeWebhook hook;
    gone = hook.url();
  }
  EXPECT_FALSE(client(gone).ask_app(verdict()));
  FakeWebhook slow;
  slow.set([](const net::Request&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(700));
    return net::Response::json(200, R"({"isAllowed":true,"gatewayAppId":"","reason":""})");
  });
  EXPECT_FALSE(client(slow.url(), std::chrono::milliseconds(150)).ask_app(verdict()));
}

TEST(Webhook, InfoNeedsItsFields) {
  FakeWebhook hook;
  EXPECT_TRUE(client(hook.url()).info());
  EXPECT_FALSE(kms::parse_webhook_info("{}"));
  EXPECT_FALSE(kms::parse_webhook_info(
      R"({"status":"ok","kmsContractAddr":"","gatewayAppId":"","chainId":"0","appImplementation":""})"));
  EXPECT_TRUE(kms::parse_webhook_info(
      R"({"status":"ok","kmsContractAddr":"0x1","gatewayAppId":"","chainId":1,"appImplementation":"i"})"));
}
