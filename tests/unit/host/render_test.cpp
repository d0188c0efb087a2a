#include "host/render.h"

#include <gtest/gtest.h>
#include <toml++/toml.h>

#include "app/app_compose.h"
#include "base/format.h"
#include "host/unit_file.h"

namespace dstack::host {
namespace {

VmmConfigValues values(const std::string& prefix = "/opt/d") {
  VmmConfigValues v;
  v.layout = *Layout::make(prefix);
  v.qemu_path = "/usr/bin/qemu-system-x86_64";
  v.kms_port = 12443;
  v.cgroup_root = "/sys/fs/cgroup/dstack/vms";
  return v;
}

TEST(Render, VmmToml) {
  EXPECT_EQ(render_vmm_toml(values()),
            R"(# written by dstackup install; changes are overwritten by the next one
address = "tcp:127.0.0.1:9080"
log_level = "info"
event_buffer_size = 20
node_name = ""
run_path = "/opt/d/var/lib/dstack/vm"

[image]
path = "/opt/d/var/lib/dstack/images"

[cvm]
platform = "simulated"
qemu_path = "/usr/bin/qemu-system-x86_64"
kms_urls = ["https://10.0.2.2:12443"]
gateway_urls = []
pccs_url = ""
docker_registry = ""
volumes_dir = "/opt/d/var/lib/dstack/volumes"
cgroup_root = "/sys/fs/cgroup/dstack/vms"
cid_start = 1000
cid_pool_size = 1000
max_allocable_vcpu = 20
max_allocable_memory_in_mb = 100000

[cvm.tee_simulator]
mock_attestation_seed_file = "/opt/d/var/lib/dstack/simulated-tee/seed"

[cvm.networking]
mode = "user"
net = "10.0.2.0/24"
dhcp_start = "10.0.2.10"
restrict = false

[cvm.port_mapping]
enabled = true
address = "127.0.0.1"
range = [{ protocol = "tcp", from = 1, to = 20000 }]

[cvm.auto_restart]
enabled = true

[auth]
enabled = true
token_file = "/opt/d/etc/dstack/vmm-auth-token"

[host_api]
ident = "dstack VMM"
address = "127.0.0.1"
port = 10000
)");
}

TEST(Render, WithoutKms) {
  auto v = values();
  v.kms_port = 0;
  EXPECT_NE(render_vmm_toml(v).find("\nkms_urls = []\n"), std::string::npos);
}

// No value can end its string, add a key or a table.
TEST(Render, TomlCannotBeInjected) {
  for (const std::string& evil :
       {std::string("a\"\n[auth]\nenabled = false\n#"), std::string("\\"), std::string("\\\""),
        std::string("'''"), std::string("\"\"\""), std::string("tab\there\r\n\x01\x7f"),
        std::string("ünï/\xe2\x80\xa8"), std::string("a\0b", 3)}) {
    auto v = values();
    v.qemu_path = evil;
    const auto parsed = toml::parse(render_vmm_toml(v));
    EXPECT_EQ(parsed["cvm"]["qemu_path"].value<std::string>(), evil);
    EXPECT_EQ(parsed["auth"]["enabled"].value<bool>(), true);
    EXPECT_EQ(parsed.size(), 9U);
  }
}

TEST(Render, KmsTomlSimulated) {
  const auto parsed = toml::parse(render_kms_toml({.auth_port = 8123, .simulated = true}));
  EXPECT_EQ(parsed.at_path("core.auth_api.webhook.url").value<std::string>(), "http://10.0.2.2:8123");
  EXPECT_EQ(parsed.at_path("core.attestation.insecure_allow_external_trust_anchors").value<bool>(), true);
  EXPECT_EQ(parsed.at_path("core.attestation.root_ca.tdx").value<std::string>(),
            "/kms-config/simulated-root.pem");
  EXPECT_EQ(parsed.at_path("core.onboard.auto_bootstrap_domain").value<std::string>(), "10.0.2.2");
  EXPECT_EQ(parsed.at_path("rpc.tls.mutual.mandatory").value<bool>(), false);
  EXPECT_EQ(parsed.at_path("core.image.verify").value<bool>(), false);
}

TEST(Render, KmsTomlTrustsNothingInsecureElsewhere) {
  const auto text = render_kms_toml({.auth_port = 8001, .simulated = false});
  EXPECT_EQ(text.find("insecure"), std::string::npos);
  EXPECT_EQ(text.find("root_ca"), std::string::npos);
}

TEST(Render, KmsApp) {
  const auto manifest =
      make_kms_manifest({.image = "localhost/dstack-kms:0.1.0",
                         .kms_toml = "[rpc]\n",
                         .simulated_root_pem = "PEM",
                         .volumes = {{"dstack-kms.img", std::string(64, 'a'), "/run/v/0"}}});
  EXPECT_EQ(manifest.docker_compose_file, R"(services:
  kms:
    image: "localhost/dstack-kms:0.1.0"
    command: ["-c", "/kms-config/kms.toml"]
    network_mode: host
    restart: unless-stopped
    volumes:
      - kms-volume:/kms
      - /var/run/dstack.sock:/var/run/dstack.sock
      - /dstack/kms-config:/kms-config:ro
volumes:
  kms-volume:
)");
  EXPECT_EQ(manifest.init_script,
            "mkdir -p /dstack/kms-config\n"
            "cat > /dstack/kms-config/kms.toml <<'KMSTOML'\n[rpc]\nKMSTOML\n"
            "cat > /dstack/kms-config/simulated-root.pem <<'ROOTPEM'\nPEM\nROOTPEM\n"
            "true\n");
  const auto bytes = app::build_app_compose(manifest);
  ASSERT_TRUE(bytes);
  const auto parsed = app::parse_app_compose(*bytes);
  ASSERT_TRUE(parsed) << parsed.error().what();
  EXPECT_FALSE(parsed->kms_enabled);
  EXPECT_FALSE(parsed->local_key_provider_enabled);
  EXPECT_EQ(parsed->verity_volumes.size(), 1U);
}

TEST(Render, ImageReferences) {
  for (const char* good : {"localhost/dstack-kms:0.1.0", "nginx", "r.example:5000/a/b@sha256:00"}) {
    EXPECT_TRUE(check_image_reference(good)) << good;
  }
  for (const char* bad : {"", "a b", "a\"b", "a\nb", "a'b", "$x", "{}"}) {
    EXPECT_FALSE(check_image_reference(bad)) << bad;
  }
}

TEST(Render, Services) {
  const auto layout = *Layout::make("/opt/d");
  const auto auth = auth_service(layout, "dstack-auth-x", "/b/dstack-auth", 8001);
  EXPECT_EQ(auth.argv,
            (std::vector<std::string>{"/b/dstack-auth", "--config", "/opt/d/etc/dstack/auth-allowlist.json",
                                      "--address", "127.0.0.1", "--port", "8001"}));
  EXPECT_FALSE(auth.children_outlive);
  const auto vmm = vmm_service(layout, "dstack-vmm-x", "dstack-auth-x", "/b/dstack-vmm");
  EXPECT_EQ(vmm.argv, (std::vector<std::string>{"/b/dstack-vmm", "-c", "/opt/d/etc/dstack/vmm.toml"}));
  EXPECT_TRUE(vmm.children_outlive);
  EXPECT_EQ(vmm.after, std::vector<std::string>{"dstack-auth-x"});
}

// The unit named only configuration and state, so that systemd showed the VMM an empty directory.
TEST(Render, TheVmmSeesImagesBelowAHiddenDirectory) {
  auto layout = *Layout::make("/opt/d");
  const auto unit = [&] {
    return render_unit(vmm_service(layout, "dstack-vmm", "dstack-auth", "/opt/d/dstack-vmm")).value_or("");
  };
  EXPECT_NE(unit().find("ProtectHome=yes"), std::string::npos);
  for (const char* path : {"/home/me/images", "/root/images", "/run/user/0/images"}) {
    layout.image_path = path;
    EXPECT_NE(unit().find(base::format("BindReadOnlyPaths=\"-{}\"\n", path)), std::string::npos) << path;
    EXPECT_NE(unit().find("ProtectHome=tmpfs"), std::string::npos) << path;
  }
  layout.image_path = "/var/tmp/images";
  EXPECT_NE(unit().find("BindReadOnlyPaths=\"-/var/tmp/images\"\n"), std::string::npos);
}

}  // namespace
}  // namespace dstack::host
