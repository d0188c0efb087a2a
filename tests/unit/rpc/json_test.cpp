#include "rpc/json.h"

#include <gmock/gmock.h>

#include "proto/agent_rpc.pb.h"
#include "proto/kms_rpc.pb.h"
#include "proto/prpc.pb.h"
#include "proto/vmm_rpc.pb.h"

namespace dstack::rpc {
namespace {

using testing::HasSubstr;

std::string problem(std::string_view json, google::protobuf::Message& message) {
  const auto result = from_json(json, message);
  return result ? "" : result.error().what();
}

TEST(Json, EveryFieldIsThereInDeclarationOrder) {
  EXPECT_EQ(to_json(dstack_guest::GetTlsKeyArgs()),
            R"({"subject":"","alt_names":[],"usage_ra_tls":false,"usage_server_auth":false,)"
            R"("usage_client_auth":false,"not_before":null,"not_after":null,"with_app_info":false})");
  EXPECT_EQ(
      to_json(kms::GetMetaResponse()),
      R"({"ca_cert":"","allow_any_upgrade":false,"k256_pubkey":"","bootstrap_info":null,"is_dev":false,)"
      R"("gateway_app_id":null,"kms_contract_address":null,"chain_id":null,"app_auth_implementation":null})");
}

TEST(Json, BytesAreLowerHex) {
  kms::AppId id;
  id.set_app_id(std::string("\xde\xad\x00\x01", 4));
  EXPECT_EQ(to_json(id), R"({"app_id":"dead0001"})");
}

TEST(Json, SixtyFourBitIntegersAreNumbers) {
  kms::PublicKeyResponse response;
  response.set_timestamp(18446744073709551615u);
  EXPECT_THAT(to_json(response), HasSubstr("\"timestamp\":18446744073709551615,"));
}

TEST(Json, SetOptionalAndMessageFieldsHaveValues) {
  kms::GetMetaResponse meta;
  meta.set_chain_id(0);
  meta.mutable_bootstrap_info()->set_ca_pubkey("\x01");
  EXPECT_THAT(to_json(meta), HasSubstr(R"("chain_id":0)"));
  EXPECT_THAT(to_json(meta),
              HasSubstr(R"("bootstrap_info":{"ca_pubkey":"01","k256_pubkey":"","attestation":""})"));
}

TEST(Json, ListsOfMessagesBytesAndStrings) {
  vmm::VmConfiguration config;
  auto* port = config.add_ports();
  port->set_protocol("tcp");
  port->set_host_port(18080);
  port->set_vm_port(80);
  EXPECT_THAT(to_json(config),
              HasSubstr(R"("ports":[{"protocol":"tcp","host_port":18080,"vm_port":80,"host_address":""}])"));
  dstack_guest::GetKeyResponse key;
  key.add_signature_chain("\x0a");
  key.add_signature_chain("\x0b");
  EXPECT_EQ(to_json(key), R"({"key":"","signature_chain":["0a","0b"]})");
}

TEST(Json, TextIsPureAsciiAndAlwaysValid) {
  vmm::Id id;
  id.set_id("gr\xc3\xbc\xc3\x9f \"x\"\n\x01 \xf0\x9f\x90\xb3 \xff");
  EXPECT_EQ(to_json(id), "{\"id\":\"gr\\u00fc\\u00df \\\"x\\\"\\n\\u0001 \\ud83d\\udc33 \\ufffd\"}");
}

TEST(Json, EmptyMessageIsNull) {
  EXPECT_EQ(to_json(prpc::Empty()), "null");
  prpc::Empty empty;
  for (const std::string_view text : {"", "null", "{}", "{\"a\":1}", "[]"}) {
    EXPECT_EQ(problem(text, empty), "") << text;
  }
}

TEST(Json, RoundTrip) {
  vmm::VmConfiguration config;
  config.set_name("n\xc3\xa4me");
  config.set_compose_file("{\"a\":\n\"b\"}");
  config.set_vcpu(4294967295u);
  config.set_encrypted_env(std::string("\0\xff", 2));
  config.set_app_id("");
  config.mutable_gpus()->add_gpus()->set_slot("0000:01:00.0");
  config.add_kms_urls("https://k");
  config.add_networks()->set_mode("user");
  vmm::VmConfiguration copy;
  ASSERT_EQ(problem(to_json(config), copy), "");
  EXPECT_EQ(copy.SerializeAsString(), config.SerializeAsString());
  EXPECT_TRUE(copy.has_app_id());
  EXPECT_FALSE(copy.has_networking());
}

TEST(Json, MissingIsDefaultUnknownIsIgnored) {
  vmm::StatusRequest request;
  request.set_page(7);
  ASSERT_EQ(problem(R"({"brief":true,"other":{"deep":[1,{"x":null}]},"Page":5,"pageSize":6})", request), "");
  EXPECT_TRUE(request.brief());
  EXPECT_EQ(request.page(), 0u) << "what was in the message before must not stay";
  EXPECT_EQ(request.page_size(), 0u) << "there is no camelCase alias";
  ASSERT_EQ(problem("", request), "");
  EXPECT_FALSE(request.brief());
}

TEST(Json, NullOnlyForOptionalAndMessageFields) {
  vmm::VmConfiguration config;
  EXPECT_EQ(problem(R"({"app_id":null,"gpus":null,"networking":null})", config), "");
  EXPECT_FALSE(config.has_app_id());
  EXPECT_FALSE(config.has_gpus());
  EXPECT_EQ(problem(R"({"name":null})", config), "name: expected a string");
  EXPECT_EQ(problem(R"({"vcpu":null})", config), "vcpu: expected an integer from 0 to 4294967295");
  EXPECT_EQ(problem(R"({"ports":null})", config), "ports: expected a list");
  EXPECT_EQ(problem(R"({"ports":[null]})", config), "ports[0]: expected an object");
  EXPECT_EQ(problem(R"({"encrypted_env":null})", config), "encrypted_env: expected a hex string");
}

TEST(Json, BytesInput) {
  kms::AppId id;
  EXPECT_EQ(problem(R"({"app_id":"0xDEadBEef"})", id), "");
  EXPECT_EQ(id.app_id(), "\xde\xad\xbe\xef");
  EXPECT_EQ(problem(R"({"app_id":"0x0x01"})", id), "") << "repeated prefixes are stripped";
  EXPECT_EQ(id.app_id(), "\x01");
  EXPECT_EQ(problem(R"({"app_id":""})", id), "");
  for (const auto* bad : {R"({"app_id":"abc"})", R"({"app_id":"zz"})", R"({"app_id":"3q2+7w=="})",
                          R"({"app_id":[1,2]})", R"({"app_id":1})", R"({"app_id":" 01"})"}) {
    EXPECT_EQ(problem(bad, id), "app_id: expected a hex string") << bad;
  }
}

TEST(Json, IntegersAreExact) {
  vmm::VmConfiguration config;
  for (const auto* bad :
       {"1.0", "1.5", "1e2", "\"1\"", "-1", "4294967296", "99999999999999999999", "true", "[]", "{}"}) {
    EXPECT_EQ(problem(std::string(R"({"vcpu":)") + bad + "}", config),
              "vcpu: expected an integer from 0 to 4294967295")
        << bad;
  }
  vmm::GuestEvent event;
  EXPECT_EQ(problem(R"({"timestamp":18446744073709551615})", event), "");
  EXPECT_EQ(event.timestamp(), 18446744073709551615u);
  EXPECT_NE(problem(R"({"timestamp":18446744073709551616})", event), "");
}

TEST(Json, OtherTypesAreStrict) {
  vmm::VmConfiguration config;
  EXPECT_EQ(problem(R"({"hugepages":1})", config), "hugepages: expected true or false");
  EXPECT_EQ(problem(R"({"hugepages":"true"})", config), "hugepages: expected true or false");
  EXPECT_EQ(problem(R"({"name":1})", config), "name: expected a string");
  EXPECT_EQ(problem(R"({"ports":{}})", config), "ports: expected a list");
  EXPECT_EQ(problem(R"({"ports":[{},{"host_port":-1}]})", config),
            "ports[1].host_port: expected an integer from 0 to 4294967295");
  EXPECT_EQ(problem(R"({"kms_urls":["a",1]})", config), "kms_urls[1]: expected a string");
  EXPECT_EQ(problem("[]", config), "the request: expected an object");
  EXPECT_EQ(problem("null", config), "the request: expected an object");
}

TEST(Json, MalformedDuplicateAndDeepInput) {
  vmm::Id id;
  EXPECT_THAT(problem("{", id), HasSubstr("not JSON"));
  EXPECT_THAT(problem("{\"id\":\"a\"} x", id), HasSubstr("not JSON"));
  EXPECT_THAT(problem("{\"id\":\"\xff\"}", id), HasSubstr("not JSON"));
  EXPECT_THAT(problem("{\"id\":NaN}", id), HasSubstr("not JSON"));
  EXPECT_THAT(problem(R"({"id":"a","id":"b"})", id), HasSubstr("duplicate field `id`"));
  EXPECT_THAT(problem(R"({"x":{"y":1,"y":2}})", id), HasSubstr("duplicate field `y`"));
  EXPECT_EQ(problem(R"({"x":{"id":1},"id":"a"})", id), "");
  EXPECT_THAT(problem("{\"x\":" + std::string(100'000, '['), id), HasSubstr("nested deeper than 64"));
  EXPECT_EQ(problem("{\"x\":" + std::string(60, '[') + std::string(60, ']') + "}", id), "");
}

std::string query_problem(std::string_view query, google::protobuf::Message& message) {
  const auto result = from_query(query, message);
  return result ? "" : result.error().what();
}

TEST(Query, ScalarsListsAndParts) {
  vmm::StatusRequest request;
  ASSERT_EQ(query_problem("ids[0]=a%20b&ids[1]=c+d&brief=true&page=3&json&other[=x", request), "");
  EXPECT_THAT(request.ids(), testing::ElementsAre("a b", "c d"));
  EXPECT_TRUE(request.brief());
  EXPECT_EQ(request.page(), 3u);
  vmm::VmConfiguration config;
  ASSERT_EQ(
      query_problem("gpus[attach_mode]=all&ports[0][protocol]=tcp&ports[0][vm_port]=80&encrypted_env=0x0A",
                    config),
      "");
  EXPECT_EQ(config.gpus().attach_mode(), "all");
  ASSERT_EQ(config.ports_size(), 1);
  EXPECT_EQ(config.ports(0).vm_port(), 80u);
  EXPECT_EQ(config.encrypted_env(), "\x0a");
}

TEST(Query, ListForms) {
  vmm::StatusRequest request;
  std::string query = "ids[10]=k";
  for (int i = 0; i < 10; ++i) {
    query += "&ids[" + std::to_string(i) + "]=" + static_cast<char>('a' + i);
  }
  ASSERT_EQ(query_problem(query, request), "");
  EXPECT_EQ(request.ids(10), "k") << "by number, not by text";
  ASSERT_EQ(query_problem("ids%5B%5D=a&ids[]=b", request), "");
  EXPECT_THAT(request.ids(), testing::ElementsAre("a", "b"));
  ASSERT_EQ(query_problem("ids=a", request), "");
  EXPECT_THAT(request.ids(), testing::ElementsAre("a"));
  ASSERT_EQ(query_problem("", request), "");
  EXPECT_EQ(request.ids_size(), 0);
}

TEST(Query, Errors) {
  vmm::StatusRequest request;
  EXPECT_THAT(query_problem("page=x", request), HasSubstr("page: expected an integer"));
  EXPECT_THAT(query_problem("page=1.5", request), HasSubstr("page: expected an integer"));
  EXPECT_THAT(query_problem("page=", request), HasSubstr("page: expected an integer"));
  EXPECT_THAT(query_problem("page=4294967296", request), HasSubstr("page: expected an integer"));
  EXPECT_THAT(query_problem("brief=1", request), HasSubstr("brief: expected true or false"));
  EXPECT_THAT(query_problem("page=1&page=2", request), HasSubstr("duplicate field `page`"));
  EXPECT_THAT(query_problem("ids[x]=1", request), HasSubstr("'x' is not an index"));
  EXPECT_THAT(query_problem("ids[0=1", request), HasSubstr("malformed"));
  EXPECT_THAT(query_problem("page[a]=1", request), HasSubstr("page: expected one value"));
  EXPECT_THAT(query_problem("ids[0][0][0][0][0][0][0][0][0][0]=1", request), HasSubstr("malformed"));
}

}  // namespace
}  // namespace dstack::rpc
