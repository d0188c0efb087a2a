#include "auth/webhook.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "net/client.h"
#include "support/replaced_list.h"
#include "unit/auth/temp_allowlist.h"
#include "unit/net/raw_socket.h"

namespace dstack::auth {
namespace {

using namespace std::chrono_literals;
using net::test::RawSocket;
using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

const std::string k_image = "0x1fbb0cf9cc6cfbf23d6b779776fabad2c5403d643badb9e5e238615e4960a78a";

json base_boot() {
  return {{"teeVariant", "dstack-tdx"},    {"mrAggregated", "0xabc123"},
          {"osImageHash", k_image},        {"mrSystem", ""},
          {"appId", "0xapp123"},           {"composeHash", "0xcompose456"},
          {"instanceId", "0xinstance789"}, {"deviceId", "0xdevice999"},
          {"keyProviderInfo", ""},         {"tcbStatus", "UpToDate"},
          {"advisoryIds", json::array()}};
}

class WebhookTest : public testing::Test {
 protected:
  void start(bool strict = false, std::string bearer = {},
             net::ServerOptions options = Webhook::server_options()) {
    m_webhook = std::make_unique<Webhook>(AllowlistCache(m_file.path(), strict), std::move(bearer),
                                          DecisionLog([this](std::string_view line) { m_log += line; }));
    m_server = std::make_unique<net::Server>(
        [this](const net::Request& request) { return m_webhook->handle(request); }, options);
    m_port = m_server->listen_tcp("127.0.0.1", 0).value_or(0);
    m_server->start();
  }
  void restart(bool strict) {
    m_server.reset();
    start(strict);
  }
  void write(const json& list) { m_file.write(list.dump()); }

  net::Response send(const std::string& method, const std::string& path, std::string body = {},
                     std::string authorization = {}) {
    net::Endpoint endpoint;
    endpoint.host = "127.0.0.1";
    endpoint.port = m_port;
    net::Request request;
    request.method = method;
    request.path = path;
    request.body = std::move(body);
    if (!authorization.empty()) {
      request.headers.add("Authorization", authorization);
    }
    auto reply = net::Client(endpoint).send(request);
    EXPECT_TRUE(reply) << reply.error().what();
    return reply ? *reply : net::Response{};
  }
  // "allow: reason" or "deny: reason".
  std::string ask(const std::string& target, const json& boot) {
    const auto reply = send("POST", "/bootAuth/" + target, boot.dump());
    if (reply.status != 200) {
      return "HTTP " + std::to_string(reply.status);
    }
    const auto answer = json::parse(reply.body);
    EXPECT_EQ(answer.size(), 3u) << "all three keys are required";
    EXPECT_TRUE(answer.at("gatewayAppId").is_string());
    return (answer.at("isAllowed").get<bool>() ? "allow: " : "deny: ") +
           answer.at("reason").get<std::string>();
  }
  json app_list(const json& app) {
    return {{"osImages", {k_image}}, {"gatewayAppId", "0xgateway"}, {"apps", {{"0xapp123", app}}}};
  }

  test::TempAllowlist m_file;
  std::string m_log;
  std::unique_ptr<Webhook> m_webhook;
  std::unique_ptr<net::Server> m_server;
  std::uint16_t m_port = 0;
};

TEST_F(WebhookTest, InfoIsConstantAlsoWhenTheFileIsBroken) {
  const std::string expected =
      R"({"status":"ok","kmsContractAddr":"","ethRpcUrl":"","gatewayAppId":"","chainId":0,"appImplementation":""})";
  start();
  EXPECT_EQ(send("GET", "/").body, expected);
  write({{"gatewayAppId", "0xgateway"}});
  EXPECT_EQ(send("GET", "/").body, expected);
  EXPECT_EQ(send("GET", "/").headers.get("Content-Type"), "application/json");
}

TEST_F(WebhookTest, InfoOfAForcedProfileIsItsOwnAlsoWhenTheFileIsBroken) {
  const std::string zero = R"("0x0000000000000000000000000000000000000000")";
  const std::string expected = R"({"status":"ok","kmsContractAddr":)" + zero +
                               R"(,"gatewayAppId":"","chainId":0,"appAuthImplementation":)" + zero +
                               R"(,"appImplementation":)" + zero + "}";
  start(true);
  EXPECT_EQ(send("GET", "/").body, expected) << "missing";
  m_file.write("{");
  EXPECT_EQ(send("GET", "/").body, expected) << "broken";
  EXPECT_EQ(send("GET", "/health").status, 503);
  write({{"gatewayAppId", "0xgateway"}, {"chainId", 5}});
  EXPECT_THAT(send("GET", "/").body, HasSubstr(R"("gatewayAppId":"0xgateway","chainId":5)"));
}

TEST_F(WebhookTest, AnswerHasExactlyTheThreeKeys) {
  start();
  write(app_list({{"composeHashes", {"0xcompose456"}}}));
  EXPECT_EQ(send("POST", "/bootAuth/app", base_boot().dump()).body,
            R"({"isAllowed":true,"gatewayAppId":"0xgateway","reason":"ok"})");
}

// The 16 cases of the stricter sibling's tests: each under the strict profile with its reasons, and under the
// single operator's, where 3, 4 and 5 pass for both halves and 6 passes.
TEST_F(WebhookTest, SixteenCases) {
  start();
  const auto both = [&](int number, const std::string& target, const json& list, const json& change,
                        const std::string& single, const std::string& strict) {
    json boot = base_boot();
    boot.update(change);
    write(list);
    restart(false);
    EXPECT_EQ(ask(target, boot), single) << "case " << number;
    restart(true);
    EXPECT_EQ(ask(target, boot), strict) << "case " << number << ", strict";
  };
  const json none = json::object();
  const auto kms = [](json part, json images = {k_image}) {
    return json{{"osImages", std::move(images)}, {"kms", std::move(part)}};
  };
  const json any = {{"mrAggregated", {"0xabc123"}}, {"allowAnyDevice", true}};

  write({{"gatewayAppId", "0xgateway"}});
  restart(true);
  const auto info = json::parse(send("GET", "/").body);
  EXPECT_EQ(info.at("status"), "ok");
  EXPECT_EQ(info.at("gatewayAppId"), "0xgateway");
  EXPECT_EQ(info.at("chainId"), 0);
  EXPECT_TRUE(info.contains("appAuthImplementation"));

  both(2, "kms", kms({{"mrAggregated", {"0xabc123"}}, {"devices", {"0xdevice999"}}}), none, "allow: ok",
       "allow: ");
  both(3, "kms", kms(any), {{"tcbStatus", "OutOfDate"}}, "allow: ok", "deny: TCB status is not allowed");
  both(4, "kms", kms({{"mrAggregated", {"0xabc123"}}, {"devices", {"0xdevice999"}}}),
       {{"teeVariant", "dstack-amd-sev-snp"}, {"tcbStatus", "OutOfDate"}}, "allow: ok",
       "deny: TCB status is not allowed");
  json outdated = kms({{"mrAggregated", {"0xabc123"}}, {"devices", {"0xdevice999"}}});
  outdated["allowedTcbStatuses"] = {"OutOfDate"};
  both(4, "kms", outdated, {{"teeVariant", "dstack-amd-sev-snp"}, {"tcbStatus", "OutOfDate"}},
       "allow: ", "allow: ");
  both(5, "kms", kms(any), {{"advisoryIds", {"INTEL-SA-TEST"}}}, "allow: ok",
       "deny: advisory ID is not allowed");
  json advised = kms(any);
  advised["allowedAdvisoryIds"] = {"INTEL-SA-TEST"};
  both(5, "kms", advised, {{"advisoryIds", {"INTEL-SA-TEST"}}}, "allow: ", "allow: ");
  both(6, "kms", kms(any, {"0xdifferentimage"}), none, "allow: ok", "deny: OS image is not allowed");
  both(7, "kms", kms({{"mrAggregated", {"0xdifferentmr"}}, {"allowAnyDevice", true}}), none,
       "deny: kms mrAggregated not allowed", "deny: aggregated MR not allowed");
  both(8, "kms", kms({{"mrAggregated", json::array()}, {"allowAnyDevice", true}}), none,
       "deny: kms mrAggregated not allowed", "deny: aggregated MR not allowed");
  both(9, "kms",
       kms({{"mrAggregated", {"0xabc123"}}, {"devices", {"0xotherdevice"}}, {"allowAnyDevice", true}}), none,
       "allow: ok", "allow: ");
  both(10, "app", app_list({{"composeHashes", {"0xcompose456"}}, {"devices", {"0xdevice999"}}}), none,
       "allow: ok", "allow: ");
  both(11, "app", {{"osImages", {k_image}}, {"apps", json::object()}}, none, "deny: app not registered",
       "deny: app not registered");
  both(12, "app", app_list({{"composeHashes", {"0xdifferenthash"}}, {"allowAnyDevice", true}}), none,
       "deny: compose hash not allowed", "deny: compose hash not allowed");
  both(13, "app", app_list({{"composeHashes", {"0xcompose456"}}, {"devices", {"0xotherdevice"}}}), none,
       "deny: device not allowed", "deny: app is not allowed to boot on this device");
  both(14, "app",
       app_list({{"composeHashes", {"0xcompose456"}}, {"devices", json::array()}, {"allowAnyDevice", true}}),
       none, "allow: ok", "allow: ");
  std::string upper = k_image.substr(2);
  std::ranges::transform(upper, upper.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  both(15, "app",
       {{"osImages", {"0x" + upper}},
        {"apps", {{"0xAPP123", {{"composeHashes", {"0xCOMPOSE456"}}, {"allowAnyDevice", true}}}}}},
       none, "allow: ok", "allow: ");
  both(16, "app",
       {{"osImages", {k_image.substr(2)}},
        {"apps", {{"app123", {{"composeHashes", {"compose456"}}, {"allowAnyDevice", true}}}}}},
       none, "allow: ok", "allow: ");
}

TEST_F(WebhookTest, WireNamesAsTheKmsSendsThem) {
  start();
  write({{"osImages", {"aabb"}}, {"apps", {{"0c", {{"composeHashes", {"dd"}}, {"devices", {"ee"}}}}}}});
  const auto reply =
      send("POST", "/bootAuth/app",
           R"({"teeVariant":"dstack-tdx","mrAggregated":"","osImageHash":"aabb","mrSystem":"",)"
           R"("appId":"0c","composeHash":"dd","instanceId":"","deviceId":"ee","keyProviderInfo":"",)"
           R"("tcbStatus":"UpToDate","advisoryIds":[],"somethingNew":{"a":[1]}})");
  EXPECT_THAT(reply.body, HasSubstr("\"isAllowed\":true"));
}

TEST_F(WebhookTest, EmptyAndMissingValuesNeverMatch) {
  start();
  write({{"allowAnyOsImage", true},
         {"apps", {{"aa", {{"composeHashes", {"bb"}}}}}},
         {"kms", {{"mrAggregated", {"cc"}}}}});
  for (const std::string body :
       {"{}", R"({"appId":"","composeHash":""})", R"({"appId":"0x","composeHash":"0x"})", R"({"appId":"aa"})",
        R"({"appId":"aa","composeHash":" 0X "})"}) {
    EXPECT_THAT(send("POST", "/bootAuth/app", body).body, HasSubstr("\"isAllowed\":false")) << body;
    EXPECT_THAT(send("POST", "/bootAuth/kms", body).body, HasSubstr("\"isAllowed\":false")) << body;
  }
}

TEST_F(WebhookTest, UnusableFileDeniesEverythingAndSaysWhy) {
  start();
  const auto good = app_list({{"composeHashes", {"0xcompose456"}}});
  const auto denied = [&](const std::string& why, const std::string& trouble) {
    for (const std::string target : {"app", "kms"}) {
      const auto answer = ask(target, base_boot());
      EXPECT_THAT(answer, StartsWith("deny: allow-list cannot be used: ")) << why;
      EXPECT_THAT(answer, HasSubstr(trouble)) << why;
    }
    const auto health = send("GET", "/health");
    EXPECT_EQ(health.status, 503) << why;
    EXPECT_THAT(health.body, HasSubstr(trouble)) << why;
    EXPECT_EQ(send("GET", "/").status, 200) << why;
  };
  denied("missing", "auth-allowlist.json");
  EXPECT_THAT(send("GET", "/health").body, HasSubstr("name the file with --config"));
  m_file.write("");
  denied("empty", "auth-allowlist.json");
  m_file.write("{\"apps\":");
  denied("cut off", "auth-allowlist.json");
  m_file.write("[]");
  denied("a list", "auth-allowlist.json");
  write({{"osImages", nullptr}});
  denied("null for a list", "osImages");
  write({{"osImages", {k_image, ""}}});
  denied("blank entry", "osImages");
  write({{"apps", {{"0x", json::object()}}}});
  denied("blank app", "apps");
  write({{"apps", {{"0xAA", json::object()}, {"aa", json::object()}}}});
  denied("two keys for one app", "aa");
  m_file.write(R"({"osImages":[],"osImages":["aa"]})");
  denied("duplicate key", "osImages");
  write(good);
  ::chmod(m_file.path().c_str(), 0666);
  denied("writable by everybody", "writable");
  write(good);
  std::filesystem::rename(m_file.path(), m_file.directory() / "elsewhere.json");
  std::filesystem::create_directory(m_file.path());
  denied("a directory", "regular file");
  std::filesystem::remove(m_file.path());
  write(good);
  EXPECT_EQ(ask("app", base_boot()), "allow: ok");
  EXPECT_EQ(send("GET", "/health").status, 200);
}

TEST_F(WebhookTest, BadBodiesGetNoDecision) {
  start();
  write(app_list({{"composeHashes", {"0xcompose456"}}}));
  const struct {
    std::string body;
    int status;
  } cases[] = {
      {"", 400},
      {"not json", 400},
      {"{", 400},
      {R"({"appId":"a"} trailing)", 400},
      {R"({"appId":"a","appId":"0xapp123"})", 400},
      {"{\"appId\":\"\xff\"}", 400},
      {R"({"x":)" + std::string(200, '[') + std::string(200, ']') + "}", 400},
      {R"({"x":)" + std::string(60'000, '['), 400},
      {"[]", 422},
      {"null", 422},
      {"\"text\"", 422},
      {R"({"appId":5})", 422},
      {R"({"appId":null})", 422},
      {R"({"composeHash":["a"]})", 422},
      {R"({"advisoryIds":"a"})", 422},
      {R"({"x":")" + std::string(64 * 1024, 'a') + "\"}", 413},
  };
  for (const auto& [body, status] : cases) {
    const auto reply = send("POST", "/bootAuth/app", body);
    EXPECT_EQ(reply.status, status) << body.substr(0, 40);
    EXPECT_EQ(reply.body.find("isAllowed"), std::string::npos) << body.substr(0, 40);
  }
  EXPECT_EQ(ask("app", base_boot()), "allow: ok") << "and the service goes on";
}

TEST_F(WebhookTest, StrictNeedsEveryRequiredField) {
  start(true);
  write(app_list({{"composeHashes", {"0xcompose456"}}, {"allowAnyDevice", true}}));
  EXPECT_EQ(ask("app", base_boot()), "allow: ");
  for (const std::string key :
       {"mrAggregated", "osImageHash", "appId", "composeHash", "instanceId", "deviceId"}) {
    auto boot = base_boot();
    boot.erase(key);
    EXPECT_EQ(ask("app", boot), "HTTP 400") << key;
  }
}

TEST_F(WebhookTest, OtherPathsAndMethods) {
  start();
  EXPECT_EQ(send("GET", "/bootAuth/app").status, 405);
  EXPECT_EQ(send("GET", "/bootAuth/app").headers.get("Allow"), "POST");
  EXPECT_EQ(send("POST", "/").status, 405);
  EXPECT_EQ(send("PUT", "/bootAuth/kms", "{}").status, 405);
  for (const std::string path :
       {"/bootAuth", "/bootAuth/", "/bootAuth/app/", "//bootAuth/app", "/bootAuth/gateway", "/bootauth/app",
        "/etc/passwd", "/bootAuth/app/../kms"}) {
    EXPECT_EQ(send("POST", path, "{}").status, 404) << path;
  }
}

TEST_F(WebhookTest, BearerToken) {
  start(false, "0123456789abcdef0123456789abcdef");
  write(app_list({{"composeHashes", {"0xcompose456"}}}));
  const std::string body = base_boot().dump();
  const auto status = [&](const std::string& header) {
    return send("POST", "/bootAuth/app", body, header).status;
  };
  EXPECT_EQ(status("Bearer 0123456789abcdef0123456789abcdef"), 200);
  EXPECT_EQ(status("bearer 0123456789abcdef0123456789abcdef"), 200);
  for (const std::string bad :
       {"", "Bearer", "Bearer ", "Bearer 0", "Bearer 0123456789abcdef0123456789abcde",
        "Bearer 0123456789abcdef0123456789abcdef0", "Bearer 0123456789ABCDEF0123456789ABCDEF",
        "Basic 0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef",
        "Bearer 0123456789abcdef0123456789abcdef,Bearer x"}) {
    EXPECT_EQ(status(bad), 401) << bad;
  }
  for (const std::string path : {"/", "/health", "/metrics", "/nothing"}) {
    EXPECT_EQ(send("GET", path).status, 401) << path;
  }
  auto socket = RawSocket::tcp(m_port);
  socket.send("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + std::string(1 << 20, '0') + "\r\n\r\n");
  EXPECT_THAT(socket.read_all(20s), StartsWith("HTTP/1.1 431"));
  auto nul = RawSocket::tcp(m_port);
  nul.send(std::string(
      "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\0\r\n\r\n", 85));
  nul.half_close();
  EXPECT_THAT(nul.read_all(20s), StartsWith("HTTP/1.1 400"));
  EXPECT_EQ(m_log.find("0123456789abcdef"), std::string::npos) << "the token is in the log";
}

TEST_F(WebhookTest, LogAndMetricsTellEveryDecision) {
  start();
  write(app_list({{"composeHashes", {"0xcompose456"}}}));
  ask("app", base_boot());
  auto other = base_boot();
  other["composeHash"] = "0xother";
  ask("app", other);
  send("POST", "/bootAuth/app", "junk");
  EXPECT_THAT(m_log, HasSubstr("decision=allow target=app app=0xapp123 compose=0xcompose456"));
  EXPECT_THAT(m_log, HasSubstr("decision=deny target=app app=0xapp123 compose=0xother"));
  const auto metrics = send("GET", "/metrics");
  EXPECT_THAT(std::string(*metrics.headers.get("Content-Type")), StartsWith("text/plain; version=0.0.4"));
  EXPECT_THAT(metrics.body, HasSubstr(R"({target="app",verdict="allow",reason="ok"} 1)"));
  EXPECT_THAT(metrics.body,
              HasSubstr(R"({target="app",verdict="deny",reason="compose hash not allowed"} 1)"));
  EXPECT_THAT(metrics.body, HasSubstr(R"(dstack_auth_refused_requests_total{status="400"} 1)"));
  std::filesystem::remove(m_file.path());
  ask("app", base_boot());
  EXPECT_THAT(send("GET", "/metrics").body, HasSubstr(R"(reason="allow-list cannot be used"} 1)"))
      << "paths and error texts must not become time series";
}

TEST_F(WebhookTest, SmugglingAndBombsGetNoDecision) {
  start();
  write(app_list({{"composeHashes", {"0xcompose456"}}}));
  const std::string body = base_boot().dump();
  const std::string inner =
      "POST /bootAuth/app HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  const std::string head = "POST /bootAuth/app HTTP/1.1\r\nHost: h\r\n";
  for (const std::string& bytes : {
           head + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + inner,
           head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
           head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner,
           head + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + inner,
           head + "Content-Length: 0x0\r\n\r\n" + inner,
           head + "X: " + std::string(20'000, 'x') + "\r\n\r\n" + inner,
       }) {
    auto socket = RawSocket::tcp(m_port);
    socket.send(bytes);
    socket.half_close();
    const auto reply = socket.read_all(20s);
    EXPECT_THAT(reply, StartsWith("HTTP/1.1 4")) << bytes.substr(0, 120);
    EXPECT_EQ(reply.find("isAllowed"), std::string::npos) << bytes.substr(0, 120);
  }
  EXPECT_EQ(m_log, "");
  auto pipelined = RawSocket::tcp(m_port);
  pipelined.send(inner + inner + inner);
  EXPECT_EQ(RawSocket::count(pipelined.read_until("\"ok\"", 3), "isAllowed\":true"), 3);
}

TEST_F(WebhookTest, SlowClientsHoldUpNobody) {
  auto options = Webhook::server_options();
  options.header_timeout = 60s;
  options.body_timeout = 60s;
  options.max_connections = 100;
  start(false, {}, options);
  write(app_list({{"composeHashes", {"0xcompose456"}}}));
  std::vector<RawSocket> slow;
  for (int i = 0; i < 99; ++i) {
    slow.push_back(RawSocket::tcp(m_port));
    slow.back().send(i % 2 == 0 ? "POST /bootAuth/app HTTP/1.1\r\nHo"
                                : "POST /bootAuth/app HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{");
  }
  EXPECT_EQ(ask("app", base_boot()), "allow: ok");
}

TEST_F(WebhookTest, NoAnswerIsFromNeitherVersionWhileTheFileIsReplaced) {
  const auto version = [](const std::string& name, const std::string& hash) {
    return json{
        {"allowAnyOsImage", true}, {"gatewayAppId", name}, {"apps", {{"aa", {{"composeHashes", {hash}}}}}}};
  };
  write(version("A", "01"));
  start();
  const std::string body = R"({"appId":"aa","composeHash":"01"})";
  const std::string request =
      "POST /bootAuth/app HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  const std::string a = version("A", "01").dump();
  const std::string b = version("B", "02").dump();
  dstack::test::expect_either_version(m_port, request, 1'000,
                                      [&](int i) { m_file.write(i % 2 == 0 ? b : a); });
}

TEST_F(WebhookTest, AReplaceBetweenTwoRequestsIsSeenByTheSecond) {
  start();
  for (int i = 0; i < 200; ++i) {
    const std::string hash = std::to_string(1000 + i);
    write({{"allowAnyOsImage", true}, {"apps", {{"aa", {{"composeHashes", {hash}}}}}}});
    ASSERT_EQ(ask("app", {{"appId", "aa"}, {"composeHash", hash}}), "allow: ok") << i;
    ASSERT_EQ(ask("app", {{"appId", "aa"}, {"composeHash", std::to_string(999 + i)}}),
              "deny: compose hash not allowed");
  }
}

}  // namespace
}  // namespace dstack::auth
