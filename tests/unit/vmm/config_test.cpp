#include "vmm/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::vmm {
namespace {

using base::Code;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string k_base = "run_path = \"vm\"\nimage.path = \"/images\"\n";

base::Result<Config> parse(const std::string& text) {
  return parse_config(k_base + text, "vmm.toml", "/etc/dstack");
}

TEST(VmmConfig, ReadsWhatDstackupWrites) {
  test::TempDir lab;
  ASSERT_TRUE(base::write_file_atomic(lab / "token", "secret-token\n"));
  ASSERT_TRUE(base::write_file_atomic(lab / "seed", std::string(64, 'A') + "\n"));
  ASSERT_TRUE(base::write_file_atomic(lab / "vmm.toml", k_base + R"(
address = "tcp:127.0.0.1:9080"
workers = 8
[cvm]
platform = "simulated"
qemu_path = "/opt/qemu"
kms_urls = ["https://10.0.2.2:9100"]
volumes_dir = "volumes"
cid_start = 1000
cid_pool_size = 1000
cgroup_root = ""
[cvm.tee_simulator]
mock_attestation_seed_file = "seed"
[cvm.port_mapping]
enabled = true
range = [{ protocol = "tcp", from = 1, to = 20000 }, { protocol = "udp", from = 5, to = 6 }]
[cvm.auto_restart]
max_retries = 7
[cvm.log]
max_bytes = "1M"
[auth]
enabled = true
tokens = ["", "other"]
token_file = "token"
[host_api]
port = 10001
)"));
  const auto config = load_config(lab / "vmm.toml");
  ASSERT_TRUE(config) << config.error().what();
  EXPECT_EQ(config->address.to_string(), "127.0.0.1:9080");
  EXPECT_EQ(config->run_path, lab / "vm");
  EXPECT_EQ(config->image_path, "/images");
  EXPECT_EQ(config->volumes_dir, lab / "volumes");
  EXPECT_EQ(config->mock_attestation_seed, std::string(64, 'A'));
  EXPECT_THAT(config->auth.tokens, ElementsAre("other", "secret-token"));
  EXPECT_EQ(config->port_mapping.ranges.size(), 2U);
  EXPECT_EQ(config->auto_restart.max_retries, 7U);
  EXPECT_EQ(config->log.max_bytes, 1024U * 1024);
  EXPECT_EQ(config->host_api_port, 10001);
  EXPECT_THAT(config->unknown_keys, ElementsAre("workers"));
  EXPECT_TRUE(config->cgroup_root.empty());
  EXPECT_TRUE(check_servable(*config));
}

TEST(VmmConfig, MistakesNameTheKey) {
  const auto refused = [](const std::string& text, const char* word) {
    const auto config = parse(text);
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.error().code, Code::vmm_config);
    EXPECT_THAT(config.error().what(), HasSubstr(word));
  };
  refused("address = 5", "address");
  refused("address = \"tcp:host.example:80\"", "address");
  refused("address = \"tcp:127.0.0.1:99999\"", "99999");
  refused("[cvm]\nplatform = \"sgx\"", "cvm.platform");
  refused("[cvm]\nkms_urls = \"x\"", "cvm.kms_urls");
  refused("[cvm.port_mapping]\nrange = [{protocol = \"tcp\", from = 9, to = 8}]", "cvm.port_mapping.range");
  refused("[cvm.port_mapping]\naddress = \"everywhere\"", "cvm.port_mapping.address");
  refused("[cvm.networking]\nmode = \"bridge\"", "cvm.networking.mode");
  refused("[cvm.networking]\nnet = \"10.0.2.0/24,hostfwd=tcp::22-:22\"", "cvm.networking.net");
  refused("[cvm.auto_restart]\ninterval = 0", "cvm.auto_restart.interval");
  refused("[cvm.log]\nmax_bytes = \"4X\"", "cvm.log.max_bytes");
  refused("[host_api]\naddress = \"vsock:2\"", "host_api.address");
  refused("[host_api]\nport = 70000", "host_api.port");
  refused("[auth]\nenabled = true\ntoken_file = \"absent\"", "auth.token_file");
  refused("= broken", "vmm.toml:3");
  refused("[cvm]\na = 1\na = 2", "vmm.toml:5");
  EXPECT_FALSE(parse_config("", "x", "/"));
  const auto seed = parse("[cvm.tee_simulator]\nmock_attestation_seed = \"abc123\"");
  ASSERT_FALSE(seed);
  EXPECT_EQ(seed.error().what().find("abc123"), std::string::npos) << "the value is a secret";
}

TEST(VmmConfig, MissingFileSaysHowToNameOne) {
  const auto config = load_config("/nonexistent/vmm.toml");
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().code, Code::not_found);
  EXPECT_THAT(config.error().fix, HasSubstr("-c FILE"));
}

TEST(VmmConfig, NothingIsExposedWithoutTlsAndAToken) {
  test::TempDir lab;
  ASSERT_TRUE(base::write_file_atomic(lab / "cert", "CERT\n"));
  ASSERT_TRUE(base::write_file_atomic(lab / "key", "KEY\n"));
  const auto load = [&](const std::string& text) {
    auto config = parse_config(
        k_base + "[cvm.tee_simulator]\nmock_attestation_seed = \"" + std::string(64, '0') + "\"\n" + text,
        "vmm.toml", lab.path());
    return config;
  };
  const std::string auth = "[auth]\nenabled = true\ntokens = [\"t\"]\n";
  const std::string expose = "[expose]\naddress = \"tcp:192.0.2.7:9080\"\n";
  const auto good = load(auth + expose + "tls_cert = \"cert\"\ntls_key = \"key\"\n");
  ASSERT_TRUE(good) << good.error().what();
  EXPECT_TRUE(check_servable(*good));
  EXPECT_EQ(good->expose.address.to_string(), "192.0.2.7:9080");
  EXPECT_EQ(good->expose.certificate_pem, "CERT");
  EXPECT_EQ(good->expose.private_key_pem, "KEY");
  EXPECT_THAT(good->unknown_keys, testing::IsEmpty());
  for (const auto* tls :
       {"", "tls_cert = \"cert\"\n", "tls_key = \"key\"\n", "tls_cert = \"cert\"\ntls_key = \"none\"\n"}) {
    const auto bad = load(auth + expose + tls);
    ASSERT_FALSE(bad) << tls;
    EXPECT_EQ(bad.error().code, Code::vmm_config);
  }
  const auto open = load(expose + "tls_cert = \"cert\"\ntls_key = \"key\"\n");
  ASSERT_TRUE(open);
  EXPECT_FALSE(check_servable(*open)) << "no token is asked for";
  EXPECT_FALSE(load(auth + "[expose]\naddress = \"unix:/x\"\ntls_cert = \"cert\"\ntls_key = \"key\"\n"));
  EXPECT_FALSE(load(auth + "[expose]\naddress = \"name:9080\"\n"));
}

TEST(VmmConfig, WhatMustNotBeServed) {
  const auto check = [](const std::string& text) {
    auto config = parse(text);
    EXPECT_TRUE(config) << config.error().what();
    if (config->mock_attestation_seed.empty() && text.find("noseed") == std::string::npos) {
      config->mock_attestation_seed = std::string(64, '0');
    }
    return check_servable(*config);
  };
  EXPECT_TRUE(check("address = \"tcp:127.0.0.1:1\""));
  EXPECT_TRUE(check("address = \"[::1]:1\""));
  EXPECT_TRUE(check("address = \"unix:/run/x.sock\""));
  EXPECT_FALSE(check("address = \"0.0.0.0:1\"\n[auth]\nenabled = true\ntokens = [\"t\"]"))
      << "the token in clear text on the network";
  EXPECT_FALSE(check("address = \"0.0.0.0:1\"")) << "D3";
  EXPECT_FALSE(check("address = \"[::]:1\""));
  EXPECT_FALSE(check("address = \"192.168.1.1:1\""));
  EXPECT_FALSE(check("[auth]\nenabled = true"));
  EXPECT_FALSE(check("node_name = \"noseed\""));
  for (const auto* platform : {"tdx", "amd-sev-snp"}) {
    const auto result = check(std::string("[cvm]\nplatform = \"") + platform + "\"");
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Code::unsupported);
    EXPECT_THAT(result.error().what(), HasSubstr("not supported by this version"));
  }
}

}  // namespace
}  // namespace dstack::vmm
