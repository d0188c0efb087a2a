#include "kms/config.h"

#include <gtest/gtest.h>

#include "attest/simulated.h"
#include "base/format.h"
#include "base/fs.h"
#include "unit/temp_dir.h"

using namespace dstack;
using base::Code;

namespace {

bool refused(const std::string& toml) {
  const auto config = kms::parse_config(toml);
  EXPECT_TRUE(config || !config.error().fix.empty()) << toml;
  return !config && config.error().code == Code::kms_config;
}

}  // namespace

TEST(KmsConfig, DefaultsAreSafe) {
  const auto config = kms::parse_config("").value();
  EXPECT_TRUE(config.enforce_self_authorization);
  EXPECT_TRUE(config.attest_rpc_cert);
  EXPECT_FALSE(config.anchors.simulated_root());
  EXPECT_EQ(config.port, 8000);
  EXPECT_EQ(config.cert_dir, "/etc/kms/certs");
  EXPECT_TRUE(config.auto_bootstrap_domain.empty());
}

TEST(KmsConfig, ReadsWhatDstackupRenders) {
  test::TempDir directory;
  const auto root = directory.path() / "root.pem";
  const auto platform = attest::SimulatedPlatform::from_seed(base::Bytes(32, 1)).value();
  ASSERT_TRUE(base::write_file_atomic(root, platform.root_pem()));
  const auto config = kms::parse_config(base::format(R"(
[rpc]
address = "127.0.0.1"
port = 8123
[rpc.tls]
key = "/kms/certs/rpc.key"
certs = "/kms/certs/rpc.crt"
[rpc.tls.mutual]
ca_certs = "/kms/certs/tmp-ca.crt"
mandatory = false
[core]
cert_dir = "/kms/certs"
enforce_self_authorization = false
future_key = 7
[core.attestation]
insecure_allow_external_trust_anchors = true
[core.attestation.root_ca]
tdx = "{}"
[core.image]
verify = false
download_timeout = "2m"
[core.metrics]
enabled = false
[core.auth_api]
type = "webhook"
[core.auth_api.webhook]
url = "http://10.0.2.2:8001"
[core.onboard]
enabled = true
auto_bootstrap_domain = "10.0.2.2"
)",
                                                     root.string()));
  ASSERT_TRUE(config) << config.error().what();
  EXPECT_EQ(config->port, 8123);
  EXPECT_EQ(config->cert_dir, "/kms/certs");
  EXPECT_FALSE(config->enforce_self_authorization);
  EXPECT_FALSE(config->metrics);
  EXPECT_TRUE(config->anchors.simulated_root());
  EXPECT_EQ(config->webhook_url, "http://10.0.2.2:8001");
  EXPECT_EQ(config->auto_bootstrap_domain, "10.0.2.2");
}

TEST(KmsConfig, AForeignRootNeedsTheInsecureSwitch) {
  test::TempDir directory;
  const auto root = directory.path() / "root.pem";
  const auto platform = attest::SimulatedPlatform::from_seed(base::Bytes(32, 1)).value();
  ASSERT_TRUE(base::write_file_atomic(root, platform.root_pem()));
  const std::string table = base::format("[core.attestation.root_ca]\ntdx = \"{}\"\n", root.string());
  EXPECT_TRUE(refused(table));
  EXPECT_TRUE(refused("[core.attestation]\ninsecure_allow_external_trust_anchors = false\n" + table));
  EXPECT_TRUE(
      kms::parse_config("[core.attestation]\ninsecure_allow_external_trust_anchors = true\n" + table));
  EXPECT_TRUE(refused("[core.attestation]\ninsecure_allow_external_trust_anchors = \"true\"\n" + table));
  EXPECT_TRUE(kms::parse_config("[core.attestation]\ninsecure_allow_external_trust_anchors = true\n"));
  const std::string insecure = "[core.attestation]\ninsecure_allow_external_trust_anchors = true\n";
  EXPECT_TRUE(refused(insecure + "[core.attestation.root_ca]\ntdxx = \"/a\"\n"));
  EXPECT_TRUE(refused(insecure + "[core.attestation.root_ca]\nsev_snp_milan = \"/a\"\n"));
  EXPECT_FALSE(kms::parse_config(insecure + "[core.attestation.root_ca]\ntdx = \"/nowhere\"\n"));
}

TEST(KmsConfig, WhatThisVersionLacksIsRefusedNotIgnored) {
  EXPECT_TRUE(refused("[core.admin]\nenabled = true\n"));
  EXPECT_TRUE(refused("[core]\nsev_snp_key_release = true\n"));
  EXPECT_TRUE(refused("[core.auth_api]\ntype = \"dev\"\n"));
  EXPECT_TRUE(refused("[rpc.tls.mutual]\nmandatory = true\n"));
  EXPECT_TRUE(refused("[rpc.tls]\nkey = \"/elsewhere/rpc.key\"\n"));
  EXPECT_TRUE(refused("[core.auth_api.webhook]\nurl = \"https://a:1\"\n"));
  EXPECT_TRUE(refused("[core.auth_api.webhook]\nurl = \"unix:/a\"\n"));
}

TEST(KmsConfig, WrongTypesAndValuesAreRefused) {
  EXPECT_TRUE(refused("[rpc]\nport = \"8000\"\n"));
  EXPECT_TRUE(refused("[rpc]\nport = 65536\n"));
  EXPECT_TRUE(refused("[rpc]\nport = -1\n"));
  EXPECT_TRUE(refused("[core]\nenforce_self_authorization = \"false\"\n"));
  EXPECT_TRUE(refused("[core\n"));
  EXPECT_TRUE(refused("[core.onboard]\nauto_bootstrap_domain = \"-a\"\n"));
}

TEST(KmsConfig, DomainsAreChecked) {
  for (const char* good : {"10.0.2.2", "kms.example.org", "a", "a-b.c"}) {
    EXPECT_TRUE(kms::check_domain(good)) << good;
  }
  const std::string long_label(64, 'a');
  for (const std::string& bad :
       {std::string(), std::string("."), std::string("a."), std::string(".a"), std::string("a..b"),
        std::string("-a"), std::string("a-"), std::string("a b"), std::string("a/b"), std::string("../x"),
        long_label, std::string(254, 'a'), std::string("a\0b", 3)}) {
    EXPECT_FALSE(kms::check_domain(bad)) << bad;
  }
}
