#include "rpc/service.h"

#include <gmock/gmock.h>

#include "net/server.h"
#include "proto/prpc.pb.h"
#include "proto/vmm_rpc.pb.h"
#include "rpc/client.h"

namespace dstack::rpc {
namespace {

using testing::HasSubstr;

class ServiceTest : public testing::Test {
 protected:
  ServiceTest() {
    m_service.on<vmm::Id, vmm::ComposeHash>("Hash", [](const Call& call, const vmm::Id& id) {
      vmm::ComposeHash out;
      out.set_hash(id.id() + std::string(call.http.headers.get("X-Test").value_or("")));
      return base::Result<vmm::ComposeHash>(out);
    });
    m_service.on<vmm::Id, prpc::Empty>(
        "Fail", [](const Call&, const vmm::Id& id) -> base::Result<prpc::Empty> {
          auto error =
              base::fail(base::Code::no_space, "disk full: " + id.id(), "free some space\nand try again");
          return base::fail(std::move(error).error(), "cannot create the VM");
        });
    m_service.on<prpc::Empty, prpc::Empty>(
        "Nothing", [](const Call&, const prpc::Empty&) { return base::Result<prpc::Empty>(prpc::Empty()); });
    m_service.on<vmm::StatusRequest, vmm::StatusRequest>("Echo",
                                                         [](const Call&, const vmm::StatusRequest& request) {
                                                           return base::Result<vmm::StatusRequest>(request);
                                                         });
  }
  net::Response post(std::string path, std::string query, std::string body, std::string type = "") {
    net::Request request;
    request.method = "POST";
    request.path = std::move(path);
    request.query = std::move(query);
    request.body = std::move(body);
    if (!type.empty()) {
      request.headers.set("Content-Type", type);
    }
    return m_service.handle(request);
  }
  net::Response get(std::string path, std::string query) {
    net::Request request;
    request.path = std::move(path);
    request.query = std::move(query);
    return m_service.handle(request);
  }
  Service m_service{"/prpc", {"Teepod.", "Vmm."}};
};

TEST_F(ServiceTest, OwnsItsMountOnly) {
  EXPECT_TRUE(m_service.owns("/prpc/Hash"));
  EXPECT_FALSE(m_service.owns("/prpc"));
  EXPECT_FALSE(m_service.owns("/prpc/"));
  EXPECT_FALSE(m_service.owns("/prpcx/Hash"));
  EXPECT_TRUE(Service("").owns("/Info"));
  EXPECT_TRUE(Service("/").owns("/Info"));
  EXPECT_FALSE(Service("").owns("/"));
}

TEST_F(ServiceTest, JsonByQueryOrContentType) {
  for (const std::string query : {"json", "json=", "json=1", "json=true", "a=b&json"}) {
    const auto reply = post("/prpc/Hash", query, R"({"id":"x"})");
    EXPECT_EQ(reply.status, 200) << query;
    EXPECT_EQ(reply.headers.get("Content-Type"), "application/json");
    EXPECT_EQ(reply.body, R"({"hash":"x"})");
  }
  for (const std::string type : {"application/json", "Application/JSON; charset=utf-8", "text/json"}) {
    EXPECT_EQ(post("/prpc/Hash", "", R"({"id":"x"})", type).body, R"({"hash":"x"})") << type;
  }
}

TEST_F(ServiceTest, ProtobufOtherwise) {
  vmm::Id id;
  id.set_id("binary");
  for (const std::string query : {"", "json=0", "json=false", "jsonx"}) {
    const auto reply = post("/prpc/Hash", query, id.SerializeAsString(), "application/octet-stream");
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.headers.get("Content-Type"), "application/octet-stream");
    vmm::ComposeHash hash;
    ASSERT_TRUE(hash.ParseFromString(reply.body));
    EXPECT_EQ(hash.hash(), "binary");
  }
  EXPECT_EQ(post("/prpc/Nothing", "", "").body, "");
  EXPECT_EQ(post("/prpc/Nothing", "json", "").body, "null");
}

TEST_F(ServiceTest, GetTakesTheQueryAndAnswersJson) {
  EXPECT_EQ(get("/prpc/Echo", "ids[0]=a&ids[1]=b&brief=true&page=2").body,
            R"({"ids":["a","b"],"brief":true,"keyword":"","page":2,"page_size":0})");
  EXPECT_EQ(get("/prpc/Nothing", "").body, "null");
  const auto bad = get("/prpc/Echo", "page=x");
  EXPECT_EQ(bad.status, 400);
  EXPECT_THAT(bad.body, HasSubstr("page: expected an integer"));
}

TEST_F(ServiceTest, PrefixesAreStrippedRepeatedly) {
  for (const std::string name : {"Hash", "Teepod.Hash", "Vmm.Hash", "Teepod.Teepod.Vmm.Teepod.Hash"}) {
    EXPECT_EQ(post("/prpc/" + name, "json", R"({"id":"x"})").status, 200) << name;
  }
  EXPECT_EQ(post("/prpc/Other.Hash", "json", "").status, 400);
}

TEST_F(ServiceTest, EmptyBodyIsTheDefaultMessage) {
  EXPECT_EQ(post("/prpc/Hash", "json", "").body, R"({"hash":""})");
  EXPECT_EQ(post("/prpc/Hash", "", "").status, 200);
  EXPECT_EQ(post("/prpc/Nothing", "json", "not json at all").body, "null");
}

TEST_F(ServiceTest, ErrorsAre400InTheCallersForm) {
  const auto json = post("/prpc/Fail", "json", R"({"id":"vm"})");
  EXPECT_EQ(json.status, 400);
  EXPECT_EQ(json.body, "{\n  \"error\": \"cannot create the VM: disk full: vm\"\n}");
  EXPECT_EQ(json.headers.get("X-Dstack-Code"), "DS1004");
  EXPECT_THAT(std::string(*json.headers.get("X-Dstack-Fix")), HasSubstr("free some space"));

  vmm::Id id;
  id.set_id("vm");
  const auto binary = post("/prpc/Fail", "", id.SerializeAsString());
  EXPECT_EQ(binary.status, 400);
  prpc::PrpcError error;
  ASSERT_TRUE(error.ParseFromString(binary.body));
  EXPECT_EQ(error.message(), "cannot create the VM: disk full: vm");
}

TEST_F(ServiceTest, UnknownMethodAndBadInput) {
  const auto unknown = post("/prpc/Nope", "json", "");
  EXPECT_EQ(unknown.status, 400);
  EXPECT_EQ(unknown.body, "{\n  \"error\": \"Service not found: Nope\"\n}");
  EXPECT_LT(post("/prpc/" + std::string(100'000, 'x'), "json", "").body.size(), 300u);
  EXPECT_EQ(post("/prpc/Hash", "json", "{").status, 400);
  EXPECT_EQ(post("/prpc/Hash", "", "\xff\xff\xff").status, 400);
  net::Request request;
  request.method = "DELETE";
  request.path = "/prpc/Hash";
  EXPECT_EQ(m_service.handle(request).status, 400);
  EXPECT_THAT(m_service.methods(), testing::ElementsAre("Echo", "Fail", "Hash", "Nothing"));
}

class ClientTest : public ServiceTest {
 protected:
  ClientTest()
      : m_server([this](const net::Request& request) {
          if (request.headers.get("Authorization") != "Bearer good") {
            return net::Response::text(401, "");
          }
          if (request.path == "/prpc/Html") {
            return net::Response::text(502, "<html>\x1b[31m bad gateway</html>");
          }
          if (request.path == "/prpc/Garbage") {
            return net::Response::text(200, "<html>");
          }
          return m_service.handle(request);
        }) {
    m_endpoint.host = "127.0.0.1";
    m_endpoint.port = m_server.listen_tcp("127.0.0.1", 0).value_or(0);
    m_server.start();
  }
  Client client(std::string token = "good") const {
    return Client(net::Client(m_endpoint), "/prpc", std::move(token));
  }
  net::Endpoint m_endpoint;
  net::Server m_server;
};

TEST_F(ClientTest, CallsAndReadsTheAnswer) {
  vmm::Id id;
  id.set_id("gr\xc3\xbc\xc3\x9f");
  const auto hash = client().call<vmm::ComposeHash>("Hash", id);
  ASSERT_TRUE(hash) << hash.error().what();
  EXPECT_EQ(hash->hash(), id.id());
  EXPECT_TRUE(client().call<prpc::Empty>("Nothing", prpc::Empty()));
}

TEST_F(ClientTest, ErrorsKeepTextCodeAndFix) {
  vmm::Id id;
  id.set_id("vm");
  const auto result = client().call<prpc::Empty>("Fail", id);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::no_space);
  EXPECT_EQ(result.error().what(), "cannot create the VM: disk full: vm");
  EXPECT_EQ(result.error().fix, "free some space and try again");
  EXPECT_EQ(client().call<prpc::Empty>("Nope", id).error().what(), "Service not found: Nope");
}

TEST_F(ClientTest, WrongTokenAndStrangeAnswers) {
  vmm::Id id;
  EXPECT_EQ(client("bad").call<prpc::Empty>("Hash", id).error().code, base::Code::unauthorized);
  EXPECT_EQ(client("").call<prpc::Empty>("Hash", id).error().code, base::Code::unauthorized);
  const auto html = client().call<vmm::Id>("Html", id);
  EXPECT_EQ(html.error().code, base::Code::rpc);
  EXPECT_THAT(html.error().what(), HasSubstr("502"));
  EXPECT_THAT(html.error().what(), testing::Not(HasSubstr("\x1b")));
  EXPECT_EQ(client().call<vmm::Id>("Garbage", id).error().code, base::Code::rpc);
}

TEST_F(ClientTest, NobodyThereIsConnectFailed) {
  net::Endpoint nowhere;
  nowhere.kind = net::Endpoint::Kind::unix_socket;
  nowhere.path = "/nonexistent/vmm.sock";
  const auto result = Client(net::Client(nowhere), "/prpc").call<vmm::Id>("Hash", vmm::Id());
  EXPECT_EQ(result.error().code, base::Code::connect_failed);
  EXPECT_THAT(result.error().message, HasSubstr("unix:/nonexistent/vmm.sock"));
}

}  // namespace
}  // namespace dstack::rpc
