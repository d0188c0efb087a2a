#include <array>
#include <charconv>
#include <ctime>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "app/allowlist_file.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "context.h"
#include "host/doctor.h"
#include "host/tls_identity.h"
#include "probe_vmm.h"
#include "verbs.h"

namespace dstack::dstackup {

using base::Result;
using host::Verdict;
using Json = nlohmann::ordered_json;

namespace {

constexpr std::size_t k_log_lines = 10;
constexpr std::int64_t k_recent = host::k_recent_restart;
constexpr const char* k_default_wait = "300";
constexpr std::chrono::milliseconds k_poll{500};

// Those of doctor's checks that are about what runs.
constexpr std::array<std::string_view, 6> k_checks = {"auth-service", "vmm-service", "vmm-api",
                                                      "kms",          "image-pin",   "allow-list"};

struct Flags {
  std::optional<std::string> prefix;
  std::optional<std::string> wait;
  std::optional<std::string> host, fingerprint;
  bool json = false;
};

struct Service {
  host::ServiceStatus status;
  std::vector<std::string> log;  // the last lines of one that is not active, or was restarted lately
};

struct Report {
  host::InstallState state;
  std::string manager, manager_kind;
  std::vector<host::CheckResult> checks;
  std::vector<Service> services;
  std::vector<::vmm::VmInfo> vms;
  std::vector<app::RegisteredApp> registered;

  bool healthy() const { return host::worst_of(checks) != Verdict::failed; }
  bool is_kms(const ::vmm::VmInfo& vm) const { return state.kms_vm_id && vm.id() == *state.kms_vm_id; }
};

Service look_at(host::ServiceManager& services, const std::string& unit) {
  Service out;
  out.status.name = unit;
  if (auto status = services.status(unit)) {
    out.status = std::move(*status);
  }
  const bool restarted = out.status.restarts != 0 && std::time(nullptr) - out.status.since_unix < k_recent;
  if (out.status.state != host::ServiceState::active || restarted) {
    out.log = services.logs(unit, k_log_lines).value_or(std::vector<std::string>());
  }
  return out;
}

Result<Report> make_report(const Flags& flags) {
  host::InstallOptions options;
  options.prefix = flags.prefix;
  DS_TRY(const auto layout, host::Layout::make(flags.prefix));
  DS_TRY(const auto state, host::require_state(layout.state_file()));
  DS_TRY(const auto facts, host::gather_facts(options));
  options = host::options_of_installation(facts, options);
  Report out;
  out.state = state;
  DS_TRY(const auto services, open_services(layout, state.instance, /*may_start=*/false));
  out.manager = services->description();
  out.manager_kind = services->kind();
  const auto probe = host_probe(*services);
  out.checks = host::run_checks({probe, options, facts}, k_checks);
  for (const auto& unit : {state.auth_unit, state.vmm_unit}) {
    out.services.push_back(look_at(*services, unit));
  }
  if (auto vmm = open_vmm(layout, state)) {
    vmm->set_limit(std::chrono::seconds(2));
    out.vms = vmm->vms().value_or(std::vector<::vmm::VmInfo>());
  }
  out.registered =
      app::AllowlistFile(state.allowlist_path).apps().value_or(std::vector<app::RegisteredApp>());
  return out;
}

std::string ports_of(const ::vmm::VmInfo& vm) {
  std::string out;
  for (const auto& port : vm.configuration().ports()) {
    out += base::format("{}{}->{}", out.empty() ? "" : ",", port.host_port(), port.vm_port());
  }
  return out.empty() ? "-" : out;
}

std::string boot_of(const ::vmm::VmInfo& vm) {
  const auto error = base::trim(vm.boot_error());
  return error.empty() ? std::string(base::trim(vm.boot_progress())) : base::format("error: {}", error);
}

void print_text(const cli::Streams& streams, const Report& report) {
  auto& out = streams.out;
  const auto& state = report.state;
  out << "platform  " << state.platform
      << (state.platform == "simulated" ? " (no TEE protects these VMs: for development)" : "") << '\n';
  out << "services  under the " << report.manager << '\n';
  out << "image     " << state.image.value_or("none") << '\n';
  out << base::format("ports     {} VMM API, {} webhook, {} host API", state.dashboard_port(),
                      state.auth_port, state.host_api_port)
      << (state.kms_port == 0 ? "" : base::format(", {} KMS", state.kms_port)) << '\n';
  if (!state.expose.empty()) {
    out << "exposed   " << state.exposed_url() << ", certificate "
        << host::read_fingerprint(state.tls_cert).value_or("unreadable") << '\n';
  }
  out << '\n';
  out << host::checks_as_text(report.checks);
  for (const auto& service : report.services) {
    if (!service.log.empty()) {
      out << "\nlast log lines of " << service.status.name << '\n';
      for (const auto& line : service.log) {
        out << "  " << base::escape_control(line) << '\n';
      }
    }
  }
  cli::Table table({{"ID", 12}, {"NAME", 22}, {"STATUS", 10}, {"UPTIME", 14}, {"PORTS", 24}, {"BOOT"}});
  for (const auto& vm : report.vms) {
    table.add({vm.id(), vm.name(), vm.status(), vm.uptime().empty() ? "-" : vm.uptime(), ports_of(vm),
               boot_of(vm)});
  }
  out << base::format("\n{} apps registered", report.registered.size())
      << (table.empty() ? "\n" : "\n" + table.text());
}

Json service_as_json(const Service& service) {
  const auto& status = service.status;
  Json json = {{"name", status.name},
               {"state", host::to_string(status.state)},
               {"since", status.since_unix == 0 ? Json(nullptr) : Json(status.since_unix)},
               {"pid", status.pid == 0 ? Json(nullptr) : Json(status.pid)},
               {"restarts", status.restarts},
               {"text", status.text}};
  // Also of one that runs again.
  json["lastError"] = status.result.empty() ? Json(nullptr) : Json(status.result);
  json["log"] = service.log;
  return json;
}

void print_json(const cli::Streams& streams, const Report& report) {
  const auto& state = report.state;
  Json json;
  json["healthy"] = report.healthy();
  json["platform"] = state.platform;
  json["version"] = state.version;
  json["serviceManager"] = report.manager_kind;
  json["image"] = state.image ? Json(*state.image) : Json(nullptr);
  json["osImageHash"] = state.os_image_hash;
  json["ports"] = {{"dashboard", state.dashboard_port()},
                   {"auth", state.auth_port},
                   {"hostApi", state.host_api_port},
                   {"kms", state.kms_port}};
  if (!state.expose.empty()) {
    json["exposed"] = {{"url", state.exposed_url()},
                       {"fingerprint", host::read_fingerprint(state.tls_cert).value_or("")}};
  }
  json["kmsVmId"] = state.kms_vm_id ? Json(*state.kms_vm_id) : Json(nullptr);
  json["kmsCaSha256"] = state.kms_ca_sha256;
  json["checks"] = Json::parse(host::checks_as_json(report.checks));
  json["services"] = Json::array();
  for (const auto& service : report.services) {
    json["services"].push_back(service_as_json(service));
  }
  json["vms"] = Json::array();
  for (const auto& vm : report.vms) {
    json["vms"].push_back({{"id", vm.id()},
                           {"name", vm.name()},
                           {"kms", report.is_kms(vm)},
                           {"appId", vm.app_id()},
                           {"status", vm.status()},
                           {"uptime", vm.uptime()},
                           {"bootProgress", vm.boot_progress()},
                           {"bootError", vm.boot_error()}});
  }
  json["registeredApps"] = report.registered.size();
  streams.out << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

std::string what_is_missing(const Report& report) {
  std::string out;
  for (const auto& [name, finding] : report.checks) {
    if (finding.verdict == Verdict::failed) {
      out += (out.empty() ? "" : "; ") + name + ": " + finding.evidence;
    }
  }
  return out;
}

Result<std::chrono::seconds> parse_wait(const std::string& text) {
  unsigned value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value > 86'400) {
    return base::fail(base::Code::usage,
                      base::format("--wait '{}' is not a number of seconds up to 86400", text));
  }
  return std::chrono::seconds(value);
}

Result<int> status(const Flags& flags, const cli::Streams& streams) {
  if (flags.host) {
    return probe_vmm(*flags.host, flags.fingerprint, flags.json, streams);
  }
  std::chrono::seconds limit{0};
  if (flags.wait) {
    DS_TRY(limit, parse_wait(*flags.wait));
  }
  cli::Progress progress(streams, /*quiet=*/!flags.wait);
  DS_TRY(auto report, make_report(flags));
  while (!report.healthy() && progress.elapsed() < limit) {
    progress.waiting(what_is_missing(report));
    std::this_thread::sleep_for(k_poll);
    DS_TRY(report, make_report(flags));
  }
  if (flags.wait) {
    report.healthy() ? progress.ok("all is up after " + cli::format_seconds(progress.elapsed()))
                     : progress.warn("still not up after " + cli::format_seconds(progress.elapsed()));
  }
  flags.json ? print_json(streams, report) : print_text(streams, report);
  return report.healthy() ? cli::k_exit_ok : cli::k_exit_failure;
}

}  // namespace

void add_status(cli::Command& program, const cli::Streams& streams,
                const std::shared_ptr<const Globals>& globals) {
  auto flags = std::make_shared<Flags>();
  auto& verb = program.verb("status", "services, KMS, image pin, VMs; exit code 0 when all is up, else 1");
  verb.option("--prefix", flags->prefix, "the installation below this directory");
  verb.option("--host", flags->host, "only ask this VMM whether it answers: http://, https:// or unix:PATH",
              "the installation of this host");
  verb.option("--fingerprint", flags->fingerprint, "certificate of an https --host: sha256:HEX",
              "DSTACK_VMM_FINGERPRINT, then what was given last");
  verb.flag("--wait", flags->wait, k_default_wait,
            "wait until all is up, with --wait=60 for 60 seconds at most");
  verb.flag("-j,--json", flags->json, "print JSON");
  verb.examples(
      "dstackup status\n"
      "dstackup status --wait=60\n"
      "dstackup status --host https://192.0.2.7:9080\n"
      "dstackup status --json --prefix /opt/dstack-test");
  verb.action([flags, globals, &streams] {
    flags->host = flags->host ? flags->host : globals->host;
    return report(streams, flags->json, [&] { return status(*flags, streams); });
  });
}

}  // namespace dstack::dstackup
