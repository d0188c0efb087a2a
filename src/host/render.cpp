#include "host/render.h"

#include <algorithm>

#include "base/format.h"
#include "host/ports.h"

namespace dstack::host {

namespace {

constexpr const char* k_kms_config_dir = "/dstack/kms-config";  // in the guest
constexpr const char* k_kms_mount = "/kms-config";              // in the container
constexpr std::uint64_t k_mebibyte = 1024 * 1024;

std::string quoted(const std::filesystem::path& path) {
  return toml_string(path.string());
}

// A double-quoted YAML scalar; check_image_reference() leaves nothing that needs escaping.
std::string yaml_string(std::string_view text) {
  return base::format("\"{}\"", text);
}

std::string here_document(std::string_view file, std::string_view delimiter, std::string_view text) {
  return base::format("cat > {}/{} <<'{}'\n{}{}{}\n", k_kms_config_dir, file, delimiter, text,
                      text.ends_with('\n') ? "" : "\n", delimiter);
}

}  // namespace

std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (byte < 0x20 || byte == 0x7f) {
          out += base::format("\\u{:04X}", byte);
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string kms_url_for_guests(std::uint16_t kms_port) {
  return base::format("https://{}:{}", k_host_from_guest, kms_port);
}

std::string render_vmm_toml(const VmmConfigValues& v) {
  const auto& l = v.layout;
  std::string out = "# written by dstackup install; changes are overwritten by the next one\n";
  out += base::format("address = {}\n", toml_string(base::format("tcp:127.0.0.1:{}", v.dashboard_port)));
  out += "log_level = \"info\"\nevent_buffer_size = 20\nnode_name = \"\"\n";
  out += base::format("run_path = {}\n", quoted(l.vms()));
  out += base::format("\n[image]\npath = {}\n", quoted(l.images()));
  out += base::format("\n[cvm]\nplatform = {}\nqemu_path = {}\n", toml_string(v.platform),
                      toml_string(v.qemu_path));
  out +=
      base::format("kms_urls = [{}]\n", v.kms_port == 0 ? "" : toml_string(kms_url_for_guests(v.kms_port)));
  out += "gateway_urls = []\npccs_url = \"\"\ndocker_registry = \"\"\n";
  out +=
      base::format("volumes_dir = {}\ncgroup_root = {}\n", quoted(l.volumes()), toml_string(v.cgroup_root));
  out += base::format("cid_start = {}\ncid_pool_size = 1000\n", v.cid_start);
  out += "max_allocable_vcpu = 20\nmax_allocable_memory_in_mb = 100000\n";
  if (v.platform != "simulated") {
    const bool snp = v.platform == "amd-sev-snp";
    // The guest kernel needs no 9p: the host share is a disk on both platforms.
    out += base::format("use_mrconfigid = {}\nhost_share_mode = \"{}\"\n", snp, "vhd");
    out += snp ? "" : "qgs_port = 4050\n";
  }
  if (v.platform == "simulated") {
    out +=
        base::format("\n[cvm.tee_simulator]\nmock_attestation_seed_file = {}\n", quoted(l.simulated_seed()));
  }
  out +=
      "\n[cvm.networking]\nmode = \"user\"\nnet = \"10.0.2.0/24\"\ndhcp_start = \"10.0.2.10\"\nrestrict = "
      "false\n"
      "\n[cvm.port_mapping]\nenabled = true\naddress = \"127.0.0.1\"\n";
  out += base::format("range = [{{ protocol = \"tcp\", from = {}, to = {} }}]\n", k_first_host_port,
                      k_last_host_port);
  out += "\n[cvm.auto_restart]\nenabled = true\n";
  out += base::format("\n[auth]\nenabled = true\ntoken_file = {}\n", quoted(l.token_file()));
  if (!v.expose.empty()) {
    const bool v6 = v.expose.find(':') != std::string::npos;
    out += base::format(
        "\n[expose]\naddress = {}\ntls_cert = {}\ntls_key = {}\n",
        toml_string(base::format("tcp:{}{}{}:{}", v6 ? "[" : "", v.expose, v6 ? "]" : "", v.dashboard_port)),
        quoted(l.tls_cert()), quoted(l.tls_key()));
  }
  if (!v.key_provider_address.empty()) {
    out += base::format("\n[key_provider]\nenabled = true\naddress = {}\nport = {}\n",
                        toml_string(v.key_provider_address), v.key_provider_port);
  }
  out += base::format("\n[host_api]\nident = \"dstack VMM\"\naddress = {}\nport = {}\n",
                      toml_string(v.platform == "simulated" ? "127.0.0.1" : "vsock:2"), v.host_api_port);
  return out;
}

std::string render_kms_toml(const KmsConfigValues& v) {
  std::string out = R"([rpc]
address = "0.0.0.0"
port = 8000

[rpc.tls]
key = "/kms/certs/rpc.key"
certs = "/kms/certs/rpc.crt"

[rpc.tls.mutual]
ca_certs = "/kms/certs/tmp-ca.crt"
mandatory = false

[core]
cert_dir = "/kms/certs"
enforce_self_authorization = false
)";
  if (v.snp) {
    out += "sev_snp_key_release = true\namd_kds_base_url = \"\"\n";
  }
  if (v.simulated) {
    out += base::format(R"(
# Evidence under this root proves nothing about hardware: for development only.
[core.attestation]
insecure_allow_external_trust_anchors = true

[core.attestation.root_ca]
tdx = "{}/simulated-root.pem"
)",
                        k_kms_mount);
  }
  out += base::format(R"(
[core.image]
verify = false

[core.metrics]
enabled = false

[core.auth_api]
type = "webhook"

[core.auth_api.webhook]
url = "http://{0}:{1}"

[core.onboard]
enabled = true
auto_bootstrap_domain = "{0}"
address = "0.0.0.0"
port = 8000
)",
                      k_host_from_guest, v.auth_port);
  return out;
}

base::Result<> check_image_reference(std::string_view reference) {
  const bool good =
      !reference.empty() && reference.size() <= 255 && std::ranges::all_of(reference, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("._-/:@").find(c) != std::string_view::npos;
      });
  if (!good) {
    return base::fail(base::Code::invalid_argument,
                      base::format("'{}' is not a container image name", reference),
                      "write it as localhost/dstack-kms:0.1.0");
  }
  return {};
}

app::KmsManifest make_kms_manifest(const KmsAppValues& v) {
  app::KmsManifest manifest;
  manifest.docker_compose_file =
      base::format(R"(services:
  kms:
    image: {}
    command: ["-c", "{}/kms.toml"]
    network_mode: host
    restart: unless-stopped
    volumes:
      - kms-volume:/kms
      - /var/run/dstack.sock:/var/run/dstack.sock
      - {}:{}:ro
volumes:
  kms-volume:
)",
                   yaml_string(v.image), k_kms_mount, k_kms_config_dir, k_kms_mount);
  manifest.init_script = base::format("mkdir -p {}\n", k_kms_config_dir);
  manifest.init_script += here_document("kms.toml", "KMSTOML", v.kms_toml);
  if (!v.simulated_root_pem.empty()) {
    manifest.init_script += here_document("simulated-root.pem", "ROOTPEM", v.simulated_root_pem);
  }
  manifest.init_script += "true\n";
  manifest.local_key_provider_enabled = v.local_key_provider;
  manifest.verity_volumes = v.volumes;
  return manifest;
}

ServiceSpec auth_service(const Layout& layout, const std::string& unit, const std::filesystem::path& program,
                         std::uint16_t port) {
  ServiceSpec spec;
  spec.name = unit;
  spec.description = "dstack auth webhook";
  spec.argv = {program.string(), "--config", layout.allowlist().string(), "--address",
               "127.0.0.1",      "--port",   std::to_string(port)};
  spec.directory = layout.state.string();
  spec.readable_paths = {layout.config.string()};
  spec.memory_max = 256 * k_mebibyte;
  spec.tasks_max = 64;
  spec.open_files = 4096;
  spec.sandbox = Sandbox::strict;
  return spec;
}

ServiceSpec vmm_service(const Layout& layout, const std::string& unit, const std::string& auth_unit,
                        const std::filesystem::path& program) {
  ServiceSpec spec;
  spec.name = unit;
  spec.description = "dstack VMM";
  spec.argv = {program.string(), "-c", layout.vmm_toml().string()};
  spec.directory = layout.state.string();
  spec.after = {auth_unit};
  spec.writable_paths = {layout.state.string()};
  spec.readable_paths = {layout.config.string()};
  if (layout.image_path) {
    spec.readable_paths.push_back(layout.images().string());
  }
  // Without the VMs, which have limits of their own, with the tools that it asks about QEMU and disks.
  spec.memory_max = 1024 * k_mebibyte;
  spec.tasks_max = 512;
  spec.sandbox = Sandbox::launcher;
  spec.children_outlive = true;
  // VMs go on without it and are found again, so it has little to finish.
  spec.stop_timeout = std::chrono::seconds(30);
  return spec;
}

}  // namespace dstack::host
