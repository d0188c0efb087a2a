#include "guest/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "crypto/hash.h"

namespace dstack::guest {
namespace {

using base::Code;
using testing::HasSubstr;

std::string compose_text(const std::string& extra = "") {
  return R"({"manifest_version":2,"name":"a","runner":"docker-compose","docker_compose_file":"services: {}")" +
         extra + "}";
}

app::AppCompose compose_of(const std::string& text) {
  return app::parse_app_compose(text).value();
}

base::Result<> supported(const std::string& extra, bool environment = false) {
  const auto text = compose_text(extra);
  return check_supported(text, compose_of(text), environment);
}

TEST(SysConfig, ReadsWhatTheVmmWrites) {
  const auto config = parse_sys_config(
      R"({"kms_urls":["https://10.0.2.2:9201"],"gateway_urls":[],"pccs_url":null,"host_api_url":"http://10.0.2.2:9205/api",)"
      R"("host_api_token":"t","vm_config":"{\"os_image_hash\":\"00\"}"})");
  ASSERT_TRUE(config.has_value());
  EXPECT_THAT(config->kms_urls, testing::ElementsAre("https://10.0.2.2:9201"));
  EXPECT_EQ(config->host_api_url, "http://10.0.2.2:9205/api");
  EXPECT_EQ(config->host_api_token, "t");
  EXPECT_EQ(config->vm_config, R"({"os_image_hash":"00"})");
}

TEST(SysConfig, RefusesHostileDocuments) {
  const std::string deep = std::string(1000, '[') + std::string(1000, ']');
  for (const std::string& text : {
           std::string(""),
           std::string("[]"),
           std::string("{}"),
           std::string(R"({"vm_config":null})"),
           std::string(R"({"vm_config":{}})"),
           std::string(R"({"vm_config":"a","vm_config":"b"})"),
           std::string(R"({"vm_config":"a","kms_urls":"x"})"),
           std::string(R"({"vm_config":"a","kms_urls":[1]})"),
           std::string(R"({"vm_config":"a","host_api_url":7})"),
           std::string(R"({"vm_config":"a","x":NaN})"),
           std::string("{\"vm_config\":\"\xff\"}"),
           std::string(R"({"vm_config":"a"} {})"),
           R"({"vm_config":"a","x":)" + deep + "}",
       }) {
    const auto config = parse_sys_config(text);
    ASSERT_FALSE(config.has_value()) << text;
    EXPECT_EQ(config.error().code, Code::host_share) << text;
  }
}

TEST(SysConfig, RefusesTooManyUrls) {
  std::string urls = "\"u\"";
  for (int i = 0; i < 16; ++i) {
    urls += ",\"u\"";
  }
  EXPECT_FALSE(parse_sys_config(R"({"vm_config":"a","kms_urls":[)" + urls + "]}").has_value());
}

TEST(InstanceInfo, AcceptsPartsAndLowersThem) {
  const auto info = parse_instance_info(R"({"app_id":")" + std::string(40, 'A') + R"(","instance_id":null})");
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->app_id, std::string(40, 'a'));
  EXPECT_EQ(info->instance_id, "");
}

TEST(InstanceInfo, RefusesPrefixesAndOtherSizes) {
  EXPECT_FALSE(parse_instance_info(R"({"app_id":"0x)" + std::string(40, 'a') + R"("})").has_value());
  EXPECT_FALSE(parse_instance_info(R"({"app_id":"abcd"})").has_value());
  EXPECT_FALSE(parse_instance_info(R"({"app_id":5})").has_value());
  EXPECT_FALSE(parse_instance_info("null").has_value());
}

TEST(InstanceInfo, IsWrittenInOrder) {
  EXPECT_EQ(to_json(InstanceInfo{"aa", "bb", "cc"}),
            R"({"instance_id_seed":"aa","instance_id":"bb","app_id":"cc"})");
}

TEST(SimulatorSeed, NeedsTdxAndThirtyTwoBytes) {
  const std::string seed(64, '7');
  EXPECT_EQ(parse_simulator_seed(R"({"platform":"tdx","mock_attestation_seed":")" + seed + R"("})").value(),
            base::Bytes(32, 0x77));
  EXPECT_FALSE(
      parse_simulator_seed(R"({"platform":"snp","mock_attestation_seed":")" + seed + R"("})").has_value());
  EXPECT_FALSE(parse_simulator_seed(R"({"platform":"tdx","mock_attestation_seed":"77"})").has_value());
  EXPECT_FALSE(parse_simulator_seed("{}").has_value());
}

// spec/host.md section 4.11: seed 4befb406..., app 11 x 20.
TEST(Identity, FollowsTheVector) {
  const auto text = compose_text(R"(,"kms_enabled":true)");
  InstanceInfo info;
  info.instance_id_seed = "4befb40617034796ce9aad5b07b812359d8817bd";
  info.app_id = std::string(40, '1');
  const auto identity = make_identity(text, compose_of(text), info).value();
  EXPECT_EQ(base::to_hex(identity.instance_id), "d39f567f180c10b486f27bc674428b4c8e0c32b8");
  EXPECT_EQ(base::to_hex(identity.app_id), info.app_id);
  EXPECT_EQ(base::to_hex(identity.compose_hash), crypto::sha256_hex(text));
}

TEST(Identity, TakesTheAppIdFromTheComposeHash) {
  const auto text = compose_text();
  const auto identity = make_identity(text, compose_of(text), {}).value();
  EXPECT_EQ(base::to_hex(identity.app_id), crypto::sha256_hex(text).substr(0, 40));
  EXPECT_EQ(identity.instance_id.size(), 20u);
}

TEST(Identity, ChangesWithOneByteOfTheCompose) {
  const auto a = compose_text();
  const auto b = compose_text(" ");
  EXPECT_NE(make_identity(a, compose_of(a), {}).value().compose_hash,
            make_identity(b, compose_of(b), {}).value().compose_hash);
}

TEST(Identity, MakesANewSeedWithoutAKeyProvider) {
  const auto text = compose_text();
  InstanceInfo info;
  info.instance_id_seed = std::string(40, '2');
  const auto first = make_identity(text, compose_of(text), info).value();
  const auto second = make_identity(text, compose_of(text), info).value();
  EXPECT_NE(base::to_hex(first.instance_id_seed), info.instance_id_seed);
  EXPECT_NE(first.instance_id, second.instance_id);
}

TEST(Identity, IsEmptyWhenTheAppWantsNone) {
  const auto text = compose_text(R"(,"no_instance_id":true)");
  EXPECT_TRUE(make_identity(text, compose_of(text), {}).value().instance_id.empty());
}

TEST(Supported, TakesWhatDeployWrites) {
  EXPECT_TRUE(supported(R"(,"kms_enabled":true,"gateway_enabled":false,"local_key_provider_enabled":false,)"
                        R"("public_logs":true,"no_instance_id":false,"secure_time":false)")
                  .has_value());
  EXPECT_TRUE(supported(R"(,"init_script":"true")").has_value());
}

TEST(Supported, RefusesWhatThisVersionLacksByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(,"gateway_enabled":true)", "gateway_enabled"},
      {R"(,"key_provider":"tpm")", "key provider tpm"},
      {R"(,"local_key_provider_enabled":true)", "key provider local"},
      {R"(,"pre_launch_script":"echo")", "pre_launch_script"},
      {R"(,"allowed_envs":["A"])", "encrypted environment"},
      {R"(,"storage_fs":"zfs")", "storage_fs zfs"},
      {R"(,"swap_size":1024)", "swap_size"},
      {R"(,"event_log_version":2)", "event_log_version 2"},
      {R"(,"secure_time":true)", "secure_time"},
  };
  for (const auto& [extra, name] : cases) {
    const auto result = supported(extra);
    ASSERT_FALSE(result.has_value()) << extra;
    EXPECT_EQ(result.error().code, Code::unsupported) << extra;
    EXPECT_THAT(result.error().what(), HasSubstr(name)) << extra;
    EXPECT_FALSE(result.error().fix.empty()) << extra;
  }
  EXPECT_FALSE(supported("", true).has_value());
}

TEST(Supported, RefusesOtherRunnersAndRequirements) {
  const std::string bash = R"({"manifest_version":2,"name":"a","runner":"bash","bash_script":"true"})";
  const auto runner = check_supported(bash, compose_of(bash), false);
  ASSERT_FALSE(runner.has_value());
  EXPECT_EQ(runner.error().what(), "runner bash is not supported by this version");

  const std::string strict = R"({"manifest_version":"3","name":"a","runner":"docker-compose",)"
                             R"("docker_compose_file":"services: {}","requirements":{"os_version":">=1"}})";
  const auto requirements = check_supported(strict, compose_of(strict), false);
  ASSERT_FALSE(requirements.has_value());
  EXPECT_THAT(requirements.error().what(), HasSubstr("requirements"));
}

}  // namespace
}  // namespace dstack::guest
