#include <unistd.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "app/volume_spec.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "bin/dstack/verbs.h"
#include "cli/progress.h"
#include "client/deploy.h"
#include "crypto/x509.h"

namespace dstack::dstack_cli {
namespace {

using base::Code;
using Json = nlohmann::ordered_json;

struct Options {
  std::string compose_positional;
  std::string compose;
  std::string name = "app";
  std::optional<std::string> image;
  std::uint32_t vcpu = 2;
  std::uint32_t memory = 2048;
  std::uint32_t disk = 20;
  std::vector<std::string> ports;
  std::vector<std::string> volumes;
  bool no_kms = false;
  std::optional<std::string> allowlist;
  std::optional<std::string> kms_id;
  bool dry_run = false;
  bool no_wait = false;
  std::uint32_t timeout = 180;
};

std::atomic<bool> g_interrupted = false;

// Ctrl-C ends the waiting with a hint; a second one ends the program.
class InterruptGuard {
 public:
  InterruptGuard() {
    g_interrupted = false;
    struct sigaction action{};
    action.sa_handler = [](int) { g_interrupted = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    ::sigaction(SIGINT, &action, &m_previous);
  }
  ~InterruptGuard() { ::sigaction(SIGINT, &m_previous, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction m_previous{};
};

// What the app is bound to: the root key of the installation's KMS. Another KMS that a host offers it is
// refused.
base::Result<std::string> kms_id(const Options& options, const client::InstallDefaults& defaults) {
  if (options.kms_id) {
    return base::normalize_hex(*options.kms_id);
  }
  if (options.no_kms || !defaults.kms_ca) {
    return std::string();
  }
  auto pem = base::read_file(*defaults.kms_ca);
  if (!pem) {
    return base::fail(std::move(pem).error(), "the certificate of this host's KMS cannot be read");
  }
  DS_TRY(const auto certificate, crypto::Certificate::from_pem(*pem));
  return base::to_hex(certificate.spki());
}

base::Result<client::DeployRequest> make_request(const Options& options,
                                                 const client::InstallDefaults& defaults) {
  if (options.compose.empty() == options.compose_positional.empty()) {
    return base::fail(Code::usage,
                      options.compose.empty() ? "no compose file is given" : "two compose files are given",
                      "name one: dstack deploy -c docker-compose.yaml");
  }
  client::DeployRequest request;
  request.compose_name = options.compose.empty() ? options.compose_positional : options.compose;
  auto text = base::read_file(request.compose_name, app::k_max_compose_file);
  if (!text) {
    base::Error error = std::move(text).error();
    if (error.code == Code::not_found) {
      error.fix = "name the compose file with -c";
    }
    return base::fail(std::move(error), "cannot read the compose file");
  }
  request.compose_text = std::move(*text);
  request.name = options.name;
  request.image = options.image ? options.image : defaults.image;
  request.vcpu = options.vcpu;
  request.memory = options.memory;
  request.disk = options.disk;
  for (const std::string& spec : options.ports) {
    DS_TRY(auto port, app::parse_port_spec(spec));
    request.ports.push_back(std::move(port));
  }
  for (const std::string& spec : options.volumes) {
    DS_TRY(auto volume, app::parse_volume_spec(spec));
    request.volumes.push_back(std::move(volume));
  }
  request.kms = !options.no_kms;
  DS_TRY(request.kms_id, kms_id(options, defaults));
  if (options.allowlist) {
    request.allowlist = *options.allowlist;
  } else {
    request.allowlist = defaults.allowlist;
  }
  request.state_directory = defaults.state_directory;
  return request;
}

void print_dry_run(const client::DeployRequest& request, const client::DeployPlan& plan, bool json,
                   const cli::Streams& streams) {
  if (json) {
    const Json out = {{"composeHash", plan.compose_hash},
                      {"appId", plan.app_id},
                      {"appCompose", plan.app_compose},
                      {"dryRun", true}};
    streams.out << out.dump(2) << std::endl;
    return;
  }
  streams.out << "compose hash: " << plan.compose_hash << "\napp id:       " << plan.app_id << '\n';
  if (request.kms && request.allowlist) {
    streams.out << "would register the hash in " << request.allowlist->string() << '\n';
  }
  streams.out << "dry run: nothing was deployed" << std::endl;
}

void print_result(const client::DeployPlan& plan, const client::Deployed& deployed, bool json,
                  const cli::Streams& streams) {
  if (json) {
    Json ports = Json::array();
    for (const auto& port : deployed.ports) {
      ports.push_back(
          {{"vmPort", port.vm_port}, {"hostPort", port.host_port}, {"hostAddress", port.host_address}});
    }
    const Json out = {{"vmId", deployed.vm_id},
                      {"appId", plan.app_id},
                      {"composeHash", plan.compose_hash},
                      {"ports", std::move(ports)}};
    streams.out << out.dump(2) << std::endl;
    return;
  }
  streams.out << "deployed: vm " << deployed.vm_id << '\n';
  for (const auto& port : deployed.ports) {
    const std::string address = port.host_address == "0.0.0.0" ? "127.0.0.1" : port.host_address;
    streams.out << (port.protocol == "tcp" ? "http://" : "udp ")
                << base::format("{}:{}{}", address, port.host_port, port.protocol == "tcp" ? "/" : "")
                << '\n';
  }
  streams.out.flush();
}

base::Result<> deploy(const Options& options, const Globals& globals, const cli::Streams& streams) {
  DS_TRY(const auto defaults, client::install_defaults(globals.access));
  DS_TRY(const auto request, make_request(options, defaults));
  DS_TRY(const auto plan, client::plan_deploy(request));
  for (const std::string& warning : plan.warnings) {
    cli::print_warning(streams, warning);
  }
  if (options.dry_run) {
    print_dry_run(request, plan, globals.json, streams);
    return {};
  }
  DS_TRY(const auto access, client::resolve_access(globals.access));
  const client::VmmClient vmm(access.endpoint, access.token, access.pin);
  cli::Progress progress(streams, globals.json);
  const InterruptGuard guard;
  const client::DeployObserver observer{[&](std::string_view text) { progress.step(text); },
                                        [&](std::string_view text) { progress.waiting(text); },
                                        [&](std::string_view text) { cli::print_warning(streams, text); },
                                        [] { return g_interrupted.load(); }};
  progress.step(base::format("compose hash {}, app id {}", plan.compose_hash, plan.app_id));
  for (const std::string& note : plan.notes) {
    progress.step(note);
  }
  DS_TRY(const auto deployed, client::create_app(vmm, request, plan, observer));
  if (!options.no_wait) {
    client::WaitOptions wait;
    wait.timeout = std::chrono::seconds(options.timeout);
    DS_CHECK(client::wait_until_ready(vmm, deployed, observer, wait));
    progress.step("ready");
  }
  print_result(plan, deployed, globals.json, streams);
  return {};
}

}  // namespace

void add_deploy(cli::Command& program, const Globals& globals, const cli::Streams& streams) {
  const auto options = std::make_shared<Options>();
  cli::Command& verb = program.verb("deploy", "run a docker compose file in a confidential VM", {"run"});
  verb.option("COMPOSE", options->compose_positional, "the compose file (or use -c)");
  verb.option("-c,--compose", options->compose, "the compose file");
  verb.values("COMPOSE", cli::Values::file());
  verb.values("--compose", cli::Values::file());
  verb.option("-n,--name", options->name, "name of the app; it is part of what is measured", "app");
  verb.option("--image", options->image, "guest image", "the one chosen at install");
  verb.option("--vcpu", options->vcpu, "virtual CPUs", "2");
  verb.option("--memory", options->memory, "memory in MiB", "2048");
  verb.option("--disk", options->disk, "disk in GiB", "20");
  verb.option("--port", options->ports,
              "map a port of this host to one of the VM: [[PROTO:][ADDRESS:]HOST:]VM");
  verb.option("--volume", options->volumes, "attach a read-only verity volume: NAME:VERITY_ROOT:TARGET");
  verb.flag("--no-kms", options->no_kms, "the app needs no keys from the KMS");
  verb.option("--key-provider-id", options->kms_id,
              "public key (SPKI, hex) of the only KMS whose keys the app takes; it is measured",
              "the installation's KMS");
  verb.option("--allowlist", options->allowlist, "allow-list in which the app is registered",
              "the installation's");
  verb.values("--allowlist", cli::Values::file());
  verb.flag("--dry-run", options->dry_run, "only compute the hash and the app id; needs no VMM");
  verb.flag("--no-wait", options->no_wait, "do not wait until the app answers");
  verb.option("--timeout", options->timeout, "seconds to wait", "180");
  verb.examples(
      "dstack deploy -c docker-compose.yaml -n hello --port 18080:80\n"
      "dstack deploy docker-compose.yaml --port 80            # picks a host port\n"
      "dstack deploy -c docker-compose.yaml -n hello --dry-run -j");
  verb.action([options, &globals, &streams] {
    const auto result = deploy(*options, globals, streams);
    return result ? cli::k_exit_ok : cli::print_error(streams, result.error(), globals.json);
  });
}

}  // namespace dstack::dstack_cli
