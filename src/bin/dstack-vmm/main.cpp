// dstack-vmm: makes and keeps VMs.
#include <cstdio>
#include <string>

#include "base/format.h"
#include "base/log.h"
#include "base/notify.h"
#include "cli/command.h"
#include "cli/streams.h"
#include "vmm/config.h"
#include "vmm/daemon.h"
#include "vmm/passed_files.h"

using namespace dstack;

namespace {

constexpr const char* k_example = R"(A configuration:
  address = "tcp:127.0.0.1:9080"
  run_path = "/var/lib/dstack/vm"
  image.path = "/var/lib/dstack/images"

  [cvm]
  platform = "simulated"
  kms_urls = ["https://10.0.2.2:9100"]
  volumes_dir = "/var/lib/dstack/volumes"
  port_mapping = { enabled = true, address = "127.0.0.1" }

  [cvm.tee_simulator]
  mock_attestation_seed_file = "/var/lib/dstack/simulated-tee/seed"

  [auth]
  enabled = true
  token_file = "/etc/dstack/vmm-auth-token"

  [host_api]
  address = "127.0.0.1"
  port = 10000)";

int report(const base::Error& error) {
  const auto fix = error.fix.empty() ? std::string() : "; " + error.fix;
  std::fprintf(stderr, "dstack-vmm: [%s] %s%s\n", base::to_string(error.code).c_str(),
               base::escape_control(error.what()).c_str(), base::escape_control(fix).c_str());
  base::notify_failed(error);
  return 1;
}

int serve(const std::string& path) {
  const auto config = vmm::load_config(path);
  if (!config) {
    return report(config.error());
  }
  base::log_setup("vmm", base::parse_log_level(config->log_level, base::LogLevel::info));
  const auto served = vmm::serve(*config);
  return served ? 0 : report(served.error());
}

int check_config(const std::string& path) {
  const auto config = vmm::load_config(path);
  if (!config) {
    return report(config.error());
  }
  if (const auto servable = vmm::check_servable(*config); !servable) {
    return report(servable.error());
  }
  for (const auto& key : config->unknown_keys) {
    std::fprintf(stderr, "dstack-vmm: `%s` has no meaning for this version\n",
                 base::escape_control(key).c_str());
  }
  std::puts("configuration is valid");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  // Not for people: the first thing that runs in a VM's unit.
  if (argc > 1 && argv[1] == vmm::k_run_vm) {
    return vmm::run_handed_over(argc - 2, argv + 2);
  }
  std::string path;
  cli::Command program("dstack-vmm", "make and keep VMs: QEMU, the Vmm API, and the host API for guests");
  program.option("-c,--config", path, "configuration file (TOML)");
  program.require("--config");
  program.examples(std::string("dstack-vmm -c /etc/dstack/vmm.toml\n") +
                   "dstack-vmm -c /etc/dstack/vmm.toml check-config\n\n" + k_example);
  auto& check = program.verb("check-config", "read the configuration, say what is wrong with it, and end");
  check.action([&] { return check_config(path); });
  program.action([&] { return serve(path); });
  return program.run(argc, argv, cli::Streams::standard());
}
