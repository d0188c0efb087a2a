#include "app/app_compose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace dstack;
using app::DeployManifest;
using app::parse_app_compose;
using testing::HasSubstr;

namespace {

constexpr const char* k_compose = "services:\n  web:\n    image: nginx:alpine\n";

std::string build(const DeployManifest& manifest) {
  auto bytes = app::build_app_compose(manifest);
  EXPECT_TRUE(bytes) << (bytes ? "" : bytes.error().what());
  return bytes.value_or("");
}

std::string error_of(std::string_view json) {
  auto parsed = parse_app_compose(json);
  EXPECT_FALSE(parsed) << json;
  return parsed ? "" : parsed.error().what();
}

std::string with(std::string_view members) {
  return R"({"manifest_version":2,"name":"n","runner":"docker-compose",)" + std::string(members) + "}";
}

}  // namespace

// The vectors A to D of spec/host.md section 2.4, insertion order.
TEST(AppComposeBytes, VectorAPlain) {
  const auto bytes = build({.docker_compose_file = k_compose});
  EXPECT_EQ(bytes.size(), 337U);
  const auto hash = app::compose_hash(bytes);
  EXPECT_EQ(hash, "8dfb61522d1ee9040c69d324808937c0e07a6568b6c03f10d9c076bc9aa1778b");
  EXPECT_EQ(app::app_id_from_hash(hash), "8dfb61522d1ee9040c69d324808937c0e07a6568");
}

TEST(AppComposeBytes, VectorBWithoutKms) {
  const auto bytes = build({.docker_compose_file = k_compose, .kms_enabled = false});
  EXPECT_EQ(bytes.size(), 338U);
  EXPECT_EQ(app::compose_hash(bytes), "adcf29b5f54228b2a347307529d5beeaeb268cffd2da220d4c61e293b64d7551");
}

TEST(AppComposeBytes, VectorCNerdctlWithVolume) {
  std::string root;
  for (int i = 0; i < 32; ++i) {
    root += "aa";
  }
  const auto bytes = build({.runner = "nerdctl-compose",
                            .docker_compose_file = k_compose,
                            .snapshotter = "stargz",
                            .verity_volumes = {{"m.img", root, "/run/models"}}});
  EXPECT_EQ(bytes.size(), 550U);
  EXPECT_EQ(app::compose_hash(bytes), "e892f4aa7c39b2e7c39ad7b6d4c978d3dc3efbb6a482cf841b1d96dc43576654");
}

TEST(AppComposeBytes, VectorDEscapes) {
  const auto bytes = build({.docker_compose_file = "# \u00e9 \"q\" \t \x01 /\n"});
  EXPECT_EQ(bytes.size(), 317U);
  EXPECT_EQ(app::compose_hash(bytes), "06948917a4b0f7c5d3b8732316c15838b9cbb57ddde1952d7e3e11ae67e1949c");
}

TEST(AppComposeBytes, TheKmsIsNamedOnlyWhenThereIsOne) {
  EXPECT_EQ(build({.docker_compose_file = k_compose}).find("key_provider_id"), std::string::npos);
  const auto bytes = build({.docker_compose_file = k_compose, .key_provider_id = "00ff"});
  EXPECT_EQ(parse_app_compose(bytes)->key_provider_id, "00ff");
}

TEST(AppComposeBytes, KmsManifestIsAccepted) {
  auto bytes = app::build_app_compose(app::KmsManifest{
      .docker_compose_file = k_compose, .init_script = "true\n", .local_key_provider_enabled = true});
  ASSERT_TRUE(bytes);
  auto parsed = parse_app_compose(*bytes);
  ASSERT_TRUE(parsed) << parsed.error().what();
  EXPECT_EQ(parsed->name, "dstack-kms");
  EXPECT_EQ(parsed->key_provider, app::KeyProvider::local);
  EXPECT_EQ(parsed->init_script, std::vector<std::string>{"true\n"});
  EXPECT_TRUE(parsed->public_tcbinfo);
  EXPECT_LT(bytes->find("init_script"), bytes->find("kms_enabled"));
}

TEST(AppComposeBytes, RefusesWhatIsNotUtf8AndBadCombinations) {
  EXPECT_FALSE(app::build_app_compose(DeployManifest{.docker_compose_file = "\xff"}));
  EXPECT_FALSE(app::build_app_compose(DeployManifest{.runner = "bash"}));
  EXPECT_FALSE(app::build_app_compose(DeployManifest{.snapshotter = "stargz"}));
}

TEST(AppComposeParse, ReadsWhatDeployWrites) {
  auto parsed = parse_app_compose(build({.name = "hello", .docker_compose_file = k_compose}));
  ASSERT_TRUE(parsed) << parsed.error().what();
  EXPECT_EQ(parsed->manifest_version, 2U);
  EXPECT_EQ(parsed->name, "hello");
  EXPECT_EQ(parsed->docker_compose_file, k_compose);
  EXPECT_TRUE(parsed->kms_enabled);
  EXPECT_EQ(parsed->key_provider, app::KeyProvider::kms);
  EXPECT_FALSE(parsed->secure_time);
  EXPECT_TRUE(parsed->public_logs);
}

TEST(AppComposeParse, DefaultsOfAbsentKeys) {
  auto parsed = parse_app_compose(R"({"manifest_version":1,"name":"","runner":"bash"})");
  ASSERT_TRUE(parsed) << parsed.error().what();
  EXPECT_FALSE(parsed->public_logs);
  EXPECT_FALSE(parsed->public_sysinfo);
  EXPECT_TRUE(parsed->public_tcbinfo);
  EXPECT_TRUE(parsed->secure_time);
  EXPECT_FALSE(parsed->docker_compose_file);
  EXPECT_EQ(parsed->key_provider, app::KeyProvider::none);
  EXPECT_EQ(parsed->event_log_version, 1U);
}

TEST(AppComposeParse, ManifestVersions) {
  for (const char* good : {"1", "2", "\"1\"", "\"3\"", "\"12\""}) {
    EXPECT_TRUE(
        parse_app_compose(std::string(R"({"name":"n","runner":"r","manifest_version":)") + good + "}"))
        << good;
  }
  for (const char* bad :
       {"0", "3", "-1", "1.0", "\"0\"", "\"03\"", "\"+3\"", "\"\"", "\"3 \"", "null", "true"}) {
    EXPECT_FALSE(
        parse_app_compose(std::string(R"({"name":"n","runner":"r","manifest_version":)") + bad + "}"))
        << bad;
  }
}

TEST(AppComposeParse, KeyProviderOrder) {
  const auto provider = [](std::string_view members) {
    return parse_app_compose(with(members)).value().key_provider;
  };
  EXPECT_EQ(provider(R"("kms_enabled":true,"local_key_provider_enabled":true)"), app::KeyProvider::kms);
  EXPECT_EQ(provider(R"("local_key_provider_enabled":true)"), app::KeyProvider::local);
  EXPECT_EQ(provider(R"("key_provider":"tpm","kms_enabled":true)"), app::KeyProvider::tpm);
  EXPECT_EQ(provider(R"("key_provider":null)"), app::KeyProvider::none);
  EXPECT_THAT(error_of(with(R"("key_provider":"hsm")")), HasSubstr("key_provider"));
  EXPECT_EQ(parse_app_compose(with(R"("key_provider_id":null)"))->key_provider_id, "");
  EXPECT_EQ(parse_app_compose(with(R"("key_provider_id":"AB")"))->key_provider_id, "ab");
}

TEST(AppComposeParse, RefusesDuplicateKeys) {
  EXPECT_THAT(error_of(with(R"("kms_enabled":true,"kms_enabled":false)")), HasSubstr("kms_enabled"));
  EXPECT_THAT(error_of(with(R"("x":{"a":1,"a":1})")), HasSubstr("twice"));
}

TEST(AppComposeParse, RefusesWrongTypesAndValues) {
  for (
      const char* members :
      {R"("kms_enabled":1)", R"("kms_enabled":null)", R"("docker_compose_file":[])", R"("allowed_envs":"A")",
       R"("allowed_envs":[1])", R"("init_script":["1","2","3","4","5","6"])", R"("init_script":5)",
       R"("swap_size":-1)", R"("swap_size":"2X")", R"("swap_size":"99999999999T")",
       R"("event_log_version":3)", R"("snapshotter":"zfs")", R"("key_provider_id":"xyz")",
       R"("requirements":{"gpus":1})", R"("requirements":{"gpu_policy":{"rego2":1}})",
       R"("verity_volumes":{})", R"("verity_volumes":[{"source":"a","verity_root":"00","target":"/x"}])",
       R"("verity_volumes":[{"source":"../a","verity_root":"0000000000000000000000000000000000000000000000000000000000000000","target":"/x"}])"}) {
    EXPECT_FALSE(parse_app_compose(with(members))) << members;
  }
  EXPECT_FALSE(parse_app_compose("[]"));
  EXPECT_FALSE(parse_app_compose(""));
  EXPECT_FALSE(parse_app_compose(R"({"manifest_version":2,"runner":"x"})"));
  EXPECT_FALSE(parse_app_compose(with(R"("a":1)") + "x"));
}

TEST(AppComposeParse, DepthIsBounded) {
  std::string deep = "\"x\":";
  for (int i = 0; i < 100'000; ++i) {
    deep += "[";
  }
  EXPECT_THAT(error_of(with(deep)), HasSubstr("levels deep"));
}

TEST(AppComposeParse, SizesAndOtherFields) {
  EXPECT_EQ(parse_app_compose(with(R"("swap_size":4096)"))->swap_size, 4096U);
  EXPECT_EQ(parse_app_compose(with(R"("swap_size":"2G")"))->swap_size, 2ULL << 30);
  EXPECT_EQ(parse_app_compose(with(R"("swap_size":"512 mb")"))->swap_size, 512ULL << 20);
  EXPECT_TRUE(parse_app_compose(with(R"("tproxy_enabled":true)"))->gateway_enabled);
  EXPECT_EQ(parse_app_compose(with(R"("init_script":["a","b"],"bash_script":"x","unknown":{"k":[1]})"))
                ->init_script.size(),
            2U);
}
