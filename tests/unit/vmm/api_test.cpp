// The two HTTP faces over loopback, as clients and guests see them.
#include "vmm/api.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "net/client.h"
#include "net/server.h"
#include "proto/host_api.pb.h"
#include "proto/prpc.pb.h"
#include "rpc/client.h"
#include "unit/vmm/lab.h"

namespace dstack::vmm {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::string k_token = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

class Api : public testing::Test {
 protected:
  void SetUp() override {
    lab.config.auth.enabled = true;
    lab.config.auth.tokens = {"another", k_token};
    lab.restart();
    external = std::make_unique<ExternalApi>(*lab.manager);
    host = std::make_unique<HostApi>(*lab.manager);
    net::ServerOptions options;
    options.max_body = 1024 * 1024;
    external_server = std::make_unique<net::Server>(
        [this](const net::Request& request) { return external->handle(request); }, options);
    host_server = std::make_unique<net::Server>(
        [this](const net::Request& request) { return host->handle(request); }, options);
    port = *external_server->listen_tcp("127.0.0.1", 0);
    host_port = *host_server->listen_tcp("127.0.0.1", 0);
    external_server->start();
    host_server->start();
  }
  void TearDown() override {
    external_server.reset();
    host_server.reset();
  }

  static net::Client client(std::uint16_t to) {
    net::Endpoint endpoint;
    endpoint.host = "127.0.0.1";
    endpoint.port = to;
    net::ClientOptions options;
    options.timeout = std::chrono::seconds(10);
    return net::Client(endpoint, options);
  }
  rpc::Client vmm(const std::string& token = k_token) const {
    return rpc::Client(client(port), "/prpc", token);
  }

  net::Response send(net::Request request, std::uint16_t to = 0) const {
    auto response = client(to == 0 ? port : to).send(request);
    EXPECT_TRUE(response) << response.error().what();
    return response ? std::move(*response) : net::Response{};
  }
  net::Response post(const std::string& path, const std::string& query, const std::string& body,
                     const std::string& token = k_token, std::uint16_t to = 0) const {
    net::Request request;
    request.method = "POST";
    request.path = path;
    request.query = query;
    request.body = body;
    if (!token.empty()) {
      request.headers.set("Authorization", "Bearer " + token);
    }
    return send(std::move(request), to);
  }
  std::string create() {
    const auto id = vmm().call<::vmm::Id>("CreateVm", lab::request());
    EXPECT_TRUE(id) << id.error().what();
    return id ? id->id() : "";
  }
  std::string guest_token(const std::string& id) const {
    return json::parse(lab::read(lab.vm(id) / "shared/.sys-config.json"))["host_api_token"]
        .get<std::string>();
  }

  lab::Lab lab;
  std::unique_ptr<ExternalApi> external;
  std::unique_ptr<HostApi> host;
  std::unique_ptr<net::Server> external_server;
  std::unique_ptr<net::Server> host_server;
  std::uint16_t port = 0;
  std::uint16_t host_port = 0;
};

TEST_F(Api, LifecycleInJson) {
  const auto id = create();
  auto response = post("/prpc/Status", "json", "{}");
  EXPECT_EQ(response.status, 200);
  auto status = json::parse(response.body);
  EXPECT_EQ(status["total"], 1);
  EXPECT_EQ(status["port_mapping_enabled"], true);
  const auto& vm = status["vms"][0];
  EXPECT_EQ(vm["id"], id);
  EXPECT_EQ(vm["status"], "running");
  EXPECT_EQ(vm["boot_progress"], "booting");
  EXPECT_EQ(vm["app_url"], nullptr);
  EXPECT_EQ(vm["instance_id"], nullptr);
  EXPECT_EQ(vm["exited_at"], nullptr);
  EXPECT_EQ(vm["image_version"], "0.6.0");
  EXPECT_EQ(vm["configuration"]["compose_file"], lab::compose());
  EXPECT_EQ(vm["configuration"]["memory"], 1024);
  EXPECT_EQ(vm["interfaces"][0]["backend"], "slirp");

  status = json::parse(post("/prpc/Status", "json", R"({"brief":true,"keyword":"hell"})").body);
  EXPECT_EQ(status["vms"][0]["configuration"], nullptr);
  EXPECT_EQ(json::parse(post("/prpc/Status", "json", R"({"keyword":"absent"})").body)["total"], 0);
  EXPECT_EQ(json::parse(post("/prpc/Status", "json", R"({"ids":["x"]})").body)["total"], 0);

  EXPECT_EQ(post("/prpc/StopVm", "json", json{{"id", id}}.dump()).body, "null");
  EXPECT_EQ(json::parse(post("/prpc/GetInfo", "json", json{{"id", id}}.dump()).body)["info"]["status"],
            "stopped");
  EXPECT_EQ(post("/prpc/StartVm", "json", json{{"id", id}}.dump()).status, 200);
  EXPECT_EQ(post("/prpc/ShutdownVm", "json", json{{"id", id}}.dump()).status, 200);
  EXPECT_EQ(post("/prpc/RemoveVm", "json", json{{"id", id}}.dump()).status, 200);
  lab.manager->tick();
  const auto info = json::parse(post("/prpc/GetInfo", "json", json{{"id", id}}.dump()).body);
  EXPECT_EQ(info, (json{{"found", false}, {"info", nullptr}}));
}

TEST_F(Api, PagesOfStatus) {
  std::vector<std::string> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(create());
    lab.clock.advance(10);
  }
  const auto page = [&](const std::string& query) {
    std::vector<std::string> out;
    const auto status = json::parse(post("/prpc/Status", "json", query).body);
    for (const auto& vm : status["vms"]) {
      out.push_back(vm["id"]);
    }
    return out;
  };
  EXPECT_EQ(page("{}"), ids);
  EXPECT_EQ(page(R"({"page":1,"page_size":2})"), (std::vector<std::string>{ids[0], ids[1]}));
  EXPECT_EQ(page(R"({"page":2,"page_size":2})"), (std::vector<std::string>{ids[2]}));
  EXPECT_TRUE(page(R"({"page":4294967295,"page_size":4294967295})").empty());
}

TEST_F(Api, ProtobufAndPrefixes) {
  ::vmm::VmConfiguration request;
  request.set_compose_file(lab::compose());
  for (const auto* path :
       {"/prpc/GetComposeHash", "/prpc/Teepod.GetComposeHash", "/prpc/Vmm.GetComposeHash"}) {
    const auto response = post(path, "", request.SerializeAsString());
    ASSERT_EQ(response.status, 200) << path;
    ::vmm::ComposeHash hash;
    ASSERT_TRUE(hash.ParseFromString(response.body));
    EXPECT_EQ(hash.hash(), crypto::sha256_hex(lab::compose()));
  }
  request.set_image("absent");
  const auto response = post("/prpc/CreateVm", "", request.SerializeAsString());
  EXPECT_EQ(response.status, 400);
  prpc::PrpcError error;
  ASSERT_TRUE(error.ParseFromString(response.body));
  EXPECT_FALSE(error.message().empty());
  EXPECT_EQ(post("/prpc/CreateVm", "", "\xff\xff\xff\xff").status, 400);
}

TEST_F(Api, ErrorsAreTextWithCodeAndFix) {
  auto response = post("/prpc/StartVm", "json", R"({"id":"nope"})");
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(json::parse(response.body)["error"].get<std::string>(), HasSubstr("VM not found: nope"));
  EXPECT_EQ(response.headers.get("X-Dstack-Code"), "DS1701");
  response = post("/prpc/NoSuchMethod", "json", "{}");
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("Service not found: NoSuchMethod"));
  EXPECT_EQ(post("/prpc/CreateVm", "json", "{\"vcpu\":\"two\"}").status, 400);
  EXPECT_EQ(post("/prpc/CreateVm", "json", std::string(100'000, '[')).status, 400);
  EXPECT_EQ(post("/elsewhere", "", "").status, 404);
  EXPECT_GE(post("/prpc/CreateVm", "json", std::string(2 * 1024 * 1024, ' ')).status, 400)
      << "D10: body limit";
}

TEST_F(Api, ImagesVersionAndMeta) {
  const auto images = json::parse(post("/prpc/ListImages", "json", "").body)["images"];
  ASSERT_EQ(images.size(), 1U);
  EXPECT_EQ(images[0]["name"], "dstack-0.6.0");
  EXPECT_EQ(images[0]["version"], "0.6.0");
  EXPECT_EQ(json::parse(images[0]["description"].get<std::string>())["kernel"], "bzImage");
  EXPECT_EQ(json::parse(post("/prpc/Version", "json", "").body)["version"], DSTACK_VERSION);
  const auto meta = json::parse(post("/prpc/GetMeta", "json", "").body);
  EXPECT_EQ(meta["networking"]["supported_modes"], json({"user"}));
  EXPECT_EQ(meta["resources"]["max_allocable_vcpu"], 20);
}

TEST_F(Api, OnlyTokensOpenIt) {
  net::Request request;
  request.path = "/prpc/Version";
  const auto status = [&](const std::string& name, const std::string& value) {
    auto copy = request;
    if (!name.empty()) {
      copy.headers.set(name, value);
    }
    return send(copy).status;
  };
  EXPECT_EQ(status("", ""), 401);
  EXPECT_EQ(status("Authorization", "Bearer " + k_token), 200);
  EXPECT_EQ(status("Authorization", "bearer   another "), 200);
  EXPECT_EQ(status("X-Admin-Token", k_token), 200);
  for (const auto& bad : {std::string(), std::string("x"), k_token.substr(1), k_token + "0",
                          std::string(8 * 1024, 'a'), "ANOTHER" + std::string()}) {
    EXPECT_EQ(status("Authorization", "Bearer " + bad), 401) << bad.substr(0, 80);
    EXPECT_EQ(status("X-Admin-Token", bad), 401) << bad.substr(0, 80);
  }
  EXPECT_EQ(status("Authorization", k_token), 401);
  for (const auto* path : {"/", "/logs", "/nothing"}) {
    request.path = path;
    EXPECT_EQ(status("", ""), 401) << path;
  }
  const auto refused = send(request);
  EXPECT_EQ(refused.body, "");
  EXPECT_THAT(std::string(refused.headers.get("WWW-Authenticate").value_or("")), HasSubstr("dstack-vmm API"));
  EXPECT_EQ(vmm("wrong").call<::vmm::VersionResponse>("Version", ::vmm::Id()).error().code,
            base::Code::unauthorized);
}

// D2: a web page whose name was made to resolve to this machine, and one that posts here.
TEST_F(Api, ForeignHostsAndOriginsAreRefused) {
  const auto status = [&](const std::string& host_header, const std::string& origin) {
    net::Request request;
    request.path = "/prpc/Version";
    request.headers.set("Host", host_header);
    if (!origin.empty()) {
      request.headers.set("Origin", origin);
    }
    request.headers.set("X-Admin-Token", k_token);
    return external->handle(request).status;
  };
  EXPECT_EQ(status("127.0.0.1:9080", ""), 200);
  EXPECT_EQ(status("localhost", ""), 200);
  EXPECT_EQ(status("LOCALHOST:80", "http://localhost:80"), 200);
  EXPECT_EQ(status("[::1]:80", ""), 200);
  EXPECT_EQ(status("evil.example", ""), 403);
  EXPECT_EQ(status("127.0.0.1.evil.example:80", ""), 403);
  EXPECT_EQ(status("", ""), 403);
  EXPECT_EQ(status("localhost", "https://evil.example"), 403);
  EXPECT_EQ(status("localhost", "null"), 403);
}

TEST_F(Api, Logs) {
  const auto id = create();
  lab::write(lab.vm(id) / "serial.log", "one\n\x1b[31mtwo\x1b[0m\n");
  const auto get = [&](const std::string& query) {
    net::Request request;
    request.path = "/logs";
    request.query = query;
    request.headers.set("X-Admin-Token", k_token);
    return send(std::move(request));
  };
  EXPECT_EQ(get("id=" + id).body, "one\ntwo\n");
  EXPECT_THAT(std::string(get("id=" + id).headers.get("Content-Type").value_or("")), HasSubstr("text/plain"));
  EXPECT_EQ(get("id=" + id + "&lines=1&ansi=true").body, "\x1b[31mtwo\x1b[0m\n");
  EXPECT_EQ(get("id=" + id + "&ch=stdout").body, "");
  EXPECT_EQ(get("id=other").status, 404);
  EXPECT_EQ(get("id=../../etc").status, 404);
  EXPECT_EQ(get("id=" + id + "&ch=../../etc/passwd").status, 400);
  EXPECT_EQ(get("id=" + id + "&lines=-1").status, 400);
  EXPECT_EQ(get("id=" + id + "&follow=maybe").status, 400);
  EXPECT_EQ(get("").status, 400);
}

TEST_F(Api, LogsFollow) {
  const auto id = create();
  const auto log = lab.vm(id) / "serial.log";
  lab::write(log, "first\n");
  net::Request request;
  request.path = "/logs";
  request.query = "follow=true&id=" + id;
  request.headers.set("X-Admin-Token", k_token);
  std::string got;
  const auto response = client(port).send_streaming(request, [&](std::string_view chunk) {
    if (got.empty()) {
      std::ofstream(log, std::ios::app) << "second\n";
    }
    got += chunk;
    return got.find("second") == std::string::npos;
  });
  ASSERT_TRUE(response) << response.error().what();
  EXPECT_EQ(got, "first\nsecond\n");
}

TEST_F(Api, HostApiKnowsItsGuests) {
  const auto first = create();
  const auto second = create();
  const auto notify = [&](const std::string& token, const std::string& event, const std::string& payload) {
    return post("/api/Notify", "json", json{{"event", event}, {"payload", payload}}.dump(), token, host_port);
  };
  EXPECT_EQ(notify(guest_token(first), "boot.progress", "init-script").body, "null");
  EXPECT_EQ(lab.manager->find(first)->progress.boot_progress, "init-script");
  EXPECT_EQ(lab.manager->find(second)->progress.boot_progress, "booting");
  EXPECT_EQ(notify(guest_token(second), "boot.error", std::string(5000, 'x')).status, 200);
  EXPECT_EQ(lab.manager->find(second)->progress.boot_error, "");

  host_api::Notification message;
  message.set_event("boot.error");
  message.set_payload("denied");
  EXPECT_EQ(post("/api/Notify", "", message.SerializeAsString(), guest_token(second), host_port).status, 200);
  EXPECT_EQ(lab.manager->find(second)->progress.boot_error, "denied");

  const auto info = json::parse(post("/api/Info", "json", "", guest_token(first), host_port).body);
  EXPECT_EQ(info, (json{{"name", "dstack VMM"}, {"version", DSTACK_VERSION}}));

  // D11: nobody else, and no token of the other API.
  EXPECT_EQ(notify("", "boot.error", "x").status, 401);
  EXPECT_EQ(notify("wrong", "boot.error", "x").status, 401);
  EXPECT_EQ(notify(k_token, "boot.error", "x").status, 401);
  EXPECT_EQ(post("/prpc/Status", "json", "{}", guest_token(first)).status, 401)
      << "a guest may not manage VMs";
  EXPECT_EQ(post("/prpc/Status", "json", "{}", guest_token(first), host_port).status, 404);
  const auto token = guest_token(first);
  ASSERT_TRUE(lab.manager->remove(first));
  lab.manager->tick();
  EXPECT_EQ(notify(token, "boot.error", "x").status, 401) << "a removed VM's token is void";
}

TEST(HumanDuration, Forms) {
  EXPECT_EQ(human_duration(0), "0s");
  EXPECT_EQ(human_duration(-1), "never");
  EXPECT_EQ(human_duration(59), "59s");
  EXPECT_EQ(human_duration(86400 + 2 * 3600 + 3 * 60 + 4), "1day 2h 3m 4s");
  EXPECT_EQ(human_duration(2 * 31557600LL + 2630016 + 2 * 86400), "2years 1month 2days");
}

}  // namespace
}  // namespace dstack::vmm
