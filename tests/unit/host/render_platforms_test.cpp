// What is rendered for each platform, beside the values of spec/host.md section 1.7. Only `simulated` is run
// by this version; the others are compared with the specification.
#include <gtest/gtest.h>
#include <toml++/toml.h>

#include <map>

#include "app/allowlist_file.h"
#include "app/app_compose.h"
#include "base/fs.h"
#include "host/install_steps.h"
#include "host/render.h"
#include "host/unit_file.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

const std::string k_platforms[] = {"simulated", "tdx", "amd-sev-snp"};

VmmConfigValues values(const std::string& platform) {
  VmmConfigValues v;
  v.layout = *Layout::make(std::nullopt);
  v.platform = platform;
  v.qemu_path = "/usr/bin/qemu-system-x86_64";
  v.kms_port = 12443;
  if (platform != "simulated") {
    v.key_provider_address = "127.0.0.1";
    v.key_provider_port = 3443;
  }
  return v;
}

std::string text_at(const toml::table& root, const char* path) {
  const auto node = root.at_path(path);
  if (const auto text = node.value<std::string>(); text && node.is_string()) {
    return *text;
  }
  if (const auto flag = node.value<bool>(); flag && node.is_boolean()) {
    return *flag ? "true" : "false";
  }
  if (const auto number = node.value<std::int64_t>()) {
    return std::to_string(*number);
  }
  return node ? "?" : "absent";
}

TEST(RenderPlatforms, VmmToml) {
  const std::map<std::string, std::map<const char*, const char*>> k_differ = {
      {"simulated",
       {{"cvm.use_mrconfigid", "absent"},
        {"cvm.qgs_port", "absent"},
        {"cvm.host_share_mode", "absent"},
        {"host_api.address", "127.0.0.1"},
        {"key_provider.enabled", "absent"},
        {"cvm.tee_simulator.mock_attestation_seed_file", "/var/lib/dstack/simulated-tee/seed"}}},
      {"tdx",
       {{"cvm.use_mrconfigid", "false"},
        {"cvm.qgs_port", "4050"},
        {"cvm.host_share_mode", "vhd"},
        {"host_api.address", "vsock:2"},
        {"key_provider.enabled", "true"},
        {"key_provider.address", "127.0.0.1"},
        {"key_provider.port", "3443"},
        {"cvm.tee_simulator.mock_attestation_seed_file", "absent"}}},
      {"amd-sev-snp",
       {{"cvm.use_mrconfigid", "true"},
        {"cvm.qgs_port", "absent"},
        {"cvm.host_share_mode", "vhd"},
        {"host_api.address", "vsock:2"},
        {"key_provider.enabled", "true"},
        {"cvm.tee_simulator.mock_attestation_seed_file", "absent"}}}};
  const std::map<const char*, const char*> k_same = {{"address", "tcp:127.0.0.1:9080"},
                                                     {"event_buffer_size", "20"},
                                                     {"log_level", "info"},
                                                     {"node_name", ""},
                                                     {"run_path", "/var/lib/dstack/vm"},
                                                     {"image.path", "/var/lib/dstack/images"},
                                                     {"cvm.qemu_path", "/usr/bin/qemu-system-x86_64"},
                                                     {"cvm.pccs_url", ""},
                                                     {"cvm.docker_registry", ""},
                                                     {"cvm.cid_start", "1000"},
                                                     {"cvm.cid_pool_size", "1000"},
                                                     {"cvm.max_allocable_vcpu", "20"},
                                                     {"cvm.max_allocable_memory_in_mb", "100000"},
                                                     {"cvm.networking.mode", "user"},
                                                     {"cvm.networking.net", "10.0.2.0/24"},
                                                     {"cvm.networking.dhcp_start", "10.0.2.10"},
                                                     {"cvm.networking.restrict", "false"},
                                                     {"cvm.port_mapping.enabled", "true"},
                                                     {"cvm.port_mapping.address", "127.0.0.1"},
                                                     {"cvm.auto_restart.enabled", "true"},
                                                     {"auth.enabled", "true"},
                                                     {"auth.token_file", "/etc/dstack/vmm-auth-token"},
                                                     {"auth.tokens", "absent"},
                                                     {"host_api.ident", "dstack VMM"},
                                                     {"host_api.port", "10000"},
                                                     {"expose.address", "absent"}};
  for (const auto& platform : k_platforms) {
    SCOPED_TRACE(platform);
    const auto parsed = toml::parse(render_vmm_toml(values(platform)));
    EXPECT_EQ(text_at(parsed, "cvm.platform"), platform);
    EXPECT_EQ(parsed.at_path("cvm.kms_urls[0]").value<std::string>(), "https://10.0.2.2:12443");
    EXPECT_EQ(parsed.at_path("cvm.port_mapping.range[0].from").value<int>(), 1);
    EXPECT_EQ(parsed.at_path("cvm.port_mapping.range[0].to").value<int>(), 20000);
    for (const auto& [key, value] : k_same) {
      EXPECT_EQ(text_at(parsed, key), value) << key;
    }
    for (const auto& [key, value] : k_differ.at(platform)) {
      EXPECT_EQ(text_at(parsed, key), value) << key;
    }
  }
}

TEST(RenderPlatforms, AnExposedVmm) {
  auto v = values("simulated");
  v.expose = "192.0.2.7";
  auto parsed = toml::parse(render_vmm_toml(v));
  EXPECT_EQ(text_at(parsed, "address"), "tcp:127.0.0.1:9080");
  EXPECT_EQ(text_at(parsed, "expose.address"), "tcp:192.0.2.7:9080");
  EXPECT_EQ(text_at(parsed, "expose.tls_cert"), "/etc/dstack/vmm-tls.pem");
  EXPECT_EQ(text_at(parsed, "expose.tls_key"), "/etc/dstack/vmm-tls.key");
  v.expose = "2001:db8::1";
  parsed = toml::parse(render_vmm_toml(v));
  EXPECT_EQ(text_at(parsed, "expose.address"), "tcp:[2001:db8::1]:9080");
}

TEST(RenderPlatforms, KmsToml) {
  const std::map<const char*, const char*> k_same = {{"rpc.address", "0.0.0.0"},
                                                     {"rpc.port", "8000"},
                                                     {"rpc.tls.key", "/kms/certs/rpc.key"},
                                                     {"rpc.tls.certs", "/kms/certs/rpc.crt"},
                                                     {"rpc.tls.mutual.ca_certs", "/kms/certs/tmp-ca.crt"},
                                                     {"rpc.tls.mutual.mandatory", "false"},
                                                     {"core.cert_dir", "/kms/certs"},
                                                     {"core.enforce_self_authorization", "false"},
                                                     {"core.image.verify", "false"},
                                                     {"core.metrics.enabled", "false"},
                                                     {"core.auth_api.type", "webhook"},
                                                     {"core.auth_api.webhook.url", "http://10.0.2.2:8001"},
                                                     {"core.onboard.enabled", "true"},
                                                     {"core.onboard.auto_bootstrap_domain", "10.0.2.2"},
                                                     {"core.onboard.address", "0.0.0.0"},
                                                     {"core.onboard.port", "8000"}};
  for (const auto& platform : k_platforms) {
    SCOPED_TRACE(platform);
    InstallPlan plan;
    plan.platform = platform;
    plan.auth_port = 8001;
    const auto parsed = toml::parse(kms_configuration(plan));
    for (const auto& [key, value] : k_same) {
      EXPECT_EQ(text_at(parsed, key), value) << key;
    }
    const bool snp = platform == "amd-sev-snp";
    EXPECT_EQ(text_at(parsed, "core.sev_snp_key_release"), snp ? "true" : "absent");
    EXPECT_EQ(text_at(parsed, "core.amd_kds_base_url"), snp ? "" : "absent");
    const bool simulated = platform == "simulated";
    EXPECT_EQ(text_at(parsed, "core.attestation.insecure_allow_external_trust_anchors"),
              simulated ? "true" : "absent");
  }
}

TEST(RenderPlatforms, OnlyTdxTakesItsDiskKeyFromTheKeyProvider) {
  for (const bool local : {false, true}) {
    const auto bytes = app::build_app_compose(make_kms_manifest(
        {.image = "localhost/dstack-kms:0.1.0", .kms_toml = "", .local_key_provider = local}));
    ASSERT_TRUE(bytes);
    EXPECT_EQ(app::parse_app_compose(*bytes)->local_key_provider_enabled, local);
  }
}

TEST(RenderPlatforms, AllowListIsTheSame) {
  test::TempDir directory;
  const app::AllowlistFile file(directory / "auth-allowlist.json");
  ASSERT_TRUE(file.create_if_missing());
  ASSERT_TRUE(file.set_kms_allow_any_device(true));
  ASSERT_TRUE(file.pin_image(std::string(64, 'a')));
  EXPECT_EQ(base::read_file(file.path()),
            "{\n  \"osImages\": [\n    \"" + std::string(64, 'a') +
                "\"\n  ],\n  \"kms\": {\n    \"mrAggregated\": [],\n    \"devices\": "
                "[],\n    \"allowAnyDevice\": true\n  },\n  \"apps\": {}\n}\n");
}

}  // namespace
}  // namespace dstack::host
