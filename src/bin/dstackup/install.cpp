#include <charconv>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/format.h"
#include "base/fs.h"
#include "cli/progress.h"
#include "context.h"
#include "fetch_image.h"
#include "host/host_lock.h"
#include "host/install_plan.h"
#include "host/install_steps.h"
#include "host/leftovers.h"
#include "host/tls_identity.h"
#include "kms_stage.h"
#include "preflight.h"
#include "verbs.h"

namespace dstack::dstackup {

using base::Code;
using base::Result;

namespace {

struct Flags {
  host::InstallOptions options;
  std::optional<std::string> dashboard_port, auth_port, host_api_port, kms_port, cid_start, key_provider_port;
  std::vector<std::string> ignored_checks;
  bool dry_run = false;
  bool json = false;
};

template <class Number>
Result<> parse_number(const char* flag, const std::optional<std::string>& text, std::optional<Number>& out) {
  if (!text) {
    return {};
  }
  Number value = 0;
  const char* end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, value);
  if (error != std::errc() || stop != end) {
    return base::fail(Code::usage, base::format("{} '{}' is not a number from 0 to {}", flag, *text,
                                                std::numeric_limits<Number>::max()));
  }
  out = value;
  return {};
}

Result<host::InstallOptions> parse(const Flags& flags) {
  auto options = flags.options;
  DS_CHECK(parse_number("--dashboard-port", flags.dashboard_port, options.dashboard_port));
  DS_CHECK(parse_number("--auth-port", flags.auth_port, options.auth_port));
  DS_CHECK(parse_number("--host-api-port", flags.host_api_port, options.host_api_port));
  DS_CHECK(parse_number("--kms-port", flags.kms_port, options.kms_port));
  DS_CHECK(parse_number("--key-provider-port", flags.key_provider_port, options.key_provider_port));
  DS_CHECK(parse_number("--cid-start", flags.cid_start, options.cid_start));
  return options;
}

struct Planned {
  host::InstallFacts facts;
  host::InstallPlan plan;
  std::vector<host::CheckResult> checks;
};

// Lets what a killed supervisor left go away, so that its ports do not look taken.
Result<> settle(const host::InstallOptions& options) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto instance, host::instance_name(options.instance, options.prefix));
  if (const auto state = host::load_state(layout.state_file()); state && *state) {
    DS_TRY(const auto services, open_services(layout, instance, /*may_start=*/false));
    host::wait_for_leftovers(layout, **state, *services);
  }
  return {};
}

// What the checks found, and only then, and only if there is need of it, a guest image from the release
// server: after that there is an image of that name.
Result<Preflight> look_and_fetch(const Flags& flags, host::InstallOptions& options,
                                 const cli::Streams& streams) {
  DS_TRY(auto look, look_at_host(options, flags.ignored_checks));
  if (flags.dry_run) {
    return look;
  }
  if (!flags.json) {
    print_findings(streams, look.checks);
  }
  DS_CHECK(host::require_no_failure(look.checks, /*shown=*/!flags.json));
  if (!look.facts.image_to_pull) {
    return look;
  }
  // What the plan refuses needs no image.
  DS_CHECK(host::make_plan(options, look.facts));
  const auto& wish = *look.facts.image_to_pull;
  const auto& layout = look.facts.layout;
  cli::Progress progress(streams, flags.json);
  FetchImage what{layout, layout.images(), options.release_api, {}, wish.gpu};
  what.version = wish.version.empty() ? std::nullopt : std::optional(wish.version);
  auto pulled = fetch_image(what, progress);
  if (!pulled) {
    return base::fail(std::move(pulled).error(), "the guest image could not be pulled");
  }
  progress.ok("guest image " + pulled->image.name);
  options.image = pulled->image.name;
  DS_TRY(look, look_at_host(options, flags.ignored_checks));
  DS_CHECK(host::require_no_failure(look.checks, /*shown=*/false));
  return look;
}

// Everything that can be known before the first side effect, but for a guest image.
Result<Planned> preflight(const Flags& flags, host::InstallOptions& options, const cli::Streams& streams) {
  DS_CHECK(settle(options));
  DS_TRY(auto look, look_and_fetch(flags, options, streams));
  auto& facts = look.facts;
  auto made = host::make_plan(options, facts);
  if (!made && flags.dry_run) {
    if (!flags.json) {
      print_findings(streams, look.checks);
    }
    DS_CHECK(host::require_no_failure(look.checks, /*shown=*/!flags.json));
  }
  DS_TRY(auto plan, std::move(made));
  const bool known_image = facts.state && facts.state->os_image_hash == plan.os_image_hash;
  if (facts.image && !facts.image->os_image_hash.empty() && !known_image) {
    DS_CHECK(host::verify_image_digest(*facts.image));
  }
  return Planned{std::move(facts), std::move(plan), std::move(look.checks)};
}

std::string result_as_json(const host::InstallPlan& plan, bool changed, double seconds) {
  nlohmann::ordered_json json;
  json["changed"] = changed;
  json["platform"] = plan.platform;
  json["image"] = plan.image;
  json["osImageHash"] = plan.os_image_hash;
  json["dashboardUrl"] = plan.state.client_url;
  json["kmsUrl"] = plan.kms_port == 0 ? "" : base::format("https://127.0.0.1:{}", plan.kms_port);
  json["kmsVmId"] = plan.state.kms_vm_id.value_or("");
  json["kmsCaSha256"] = plan.state.kms_ca_sha256;
  if (!plan.expose.empty()) {
    json["exposedUrl"] = plan.state.exposed_url();
    json["fingerprint"] = host::read_fingerprint(plan.layout.tls_cert()).value_or("");
  }
  json["seconds"] = seconds;
  return json.dump(2);
}

void print_summary(const cli::Streams& streams, const host::InstallPlan& plan, bool changed,
                   const std::string& elapsed) {
  auto& out = streams.out;
  out << (changed ? "installed in " : "nothing to do, all is up (") << elapsed << (changed ? "" : ")")
      << '\n';
  out << "  platform   " << plan.platform
      << (plan.platform == "simulated" ? " (no TEE protects these VMs: for development)" : "") << '\n';
  out << "  VMM API    " << plan.state.client_url << '\n';
  if (!plan.expose.empty()) {
    out << "  exposed    " << plan.state.exposed_url() << ", certificate "
        << host::read_fingerprint(plan.layout.tls_cert()).value_or("unreadable") << '\n';
  }
  if (plan.kms_port != 0) {
    out << "  KMS        https://127.0.0.1:" << plan.kms_port << ", root certificate sha256 "
        << plan.state.kms_ca_sha256.substr(0, 16) << "…\n";
  }
  out << "  image      " << (plan.image.empty() ? "none" : plan.image) << '\n';
  const auto with = plan.layout.prefix ? " --prefix " + plan.layout.prefix->string() : std::string();
  if (plan.state.service_manager == "supervisor") {
    out << "systemd does not run here: after a reboot, 'dstackup install" << with
        << "' starts the services and the VMs that ran\n";
  }
  if (!plan.start) {
    out << "--no-start: nothing was started; 'dstackup install" << with << "' does\n";
    return;
  }
  out << "next: dstack deploy -c docker-compose.yaml -n hello --port 18080:80" << with << '\n';
}

// The last step: made through the VMM's API, so that it is not among those that only touch this host.
host::InstallStep kms_step(const host::InstallPlan& plan, std::function<Result<bool>()> apply) {
  using Kind = host::JournalEntry::Kind;
  return {
      "KMS",
      base::format("a VM from {} with the guest image {}, reached on port {}; ready when its evidence "
                   "verifies, then its root is pinned",
                   plan.kms_image, host::image_of_plan(plan), plan.kms_port),
      {{Kind::vm, "dstack-kms", "KMS"}, {Kind::file, plan.layout.kms_ca().string(), "KMS root certificate"}},
      [up = plan.kms_up, made = plan.state.kms_vm_id.has_value()] {
        return std::string(up ? "" : made ? "start" : "make");
      },
      std::move(apply)};
}

// Only for the printed plan: before the steps that run, it is done already.
host::InstallStep pull_step(const host::InstallPlan& plan, const host::InstallOptions& options) {
  return {"guest image",
          base::format("{} is pulled from {}, its digest checked", plan.image_to_pull,
                       options.release_api.value_or(host::k_release_api)),
          {},
          [] { return std::string("pull"); },
          {}};
}

// Addresses and ports are chosen by what others show: from the look at them until our VMM can be seen itself,
// nobody else may choose.
Result<host::HostLock> lock_host(cli::Progress& progress) {
  host::HostLock::Options options;
  options.waiting = [&](std::string_view text) { progress.waiting(text); };
  DS_TRY(auto lock, host::HostLock::acquire(options));
  if (!lock.held()) {
    progress.warn(lock.stranger() + " holds the lock of this host, which is not its: not waiting for it");
  }
  return lock;
}

// As ask_vmm().
Result<std::string> ask_auth(host::ServiceManager& services, std::uint16_t port) {
  DS_CHECK(host_probe(services).ask_auth(port));
  return std::string();
}

Result<int> install(const Flags& flags, const cli::Streams& streams) {
  DS_TRY(auto options, parse(flags));
  cli::Progress progress(streams, flags.json);
  DS_TRY(auto planned, preflight(flags, options, streams));
  auto* plan = &planned.plan;
  const auto waiting = [&](std::string_view text) { progress.waiting(text); };
  DS_TRY(auto services,
         open_services(plan->layout, plan->instance, !flags.dry_run, plan->named.supervisor, waiting));
  const auto answers = [&](const std::string& unit) {
    for (int question = 0; question < 3; ++question) {
      const auto answer = unit == plan->vmm_unit ? ask_vmm(plan->layout, plan->state)
                                                 : ask_auth(*services, plan->state.auth_port);
      if (answer || answer.error().code != Code::timeout) {
        return true;
      }
    }
    progress.warn(unit + " runs and does not answer: starting it again");
    return false;
  };
  host::InstallContext context{*plan, *services, answers};
  if (flags.dry_run) {
    auto steps = host::install_steps(context);
    if (!plan->image_to_pull.empty()) {
      steps.insert(steps.begin(), pull_step(*plan, options));
    }
    if (plan->kms_port != 0 && plan->start) {
      steps.push_back(kms_step(*plan, {}));
    }
    streams.out << (flags.json ? with_checks_as_json(host::plan_as_json(*plan, steps), planned.checks) + "\n"
                               : with_checks_as_text(host::plan_as_text(*plan, steps), planned.checks));
    DS_CHECK(host::require_no_failure(planned.checks, /*shown=*/true));
    return cli::k_exit_ok;
  }
  DS_CHECK(host::ensure_state_directory(plan->layout));
  DS_TRY(const auto lock, take_lock(plan->layout));
  DS_TRY(const auto now, host::load_state(plan->layout.state_file()));
  const auto text = [](const std::optional<host::InstallState>& s) {
    return s ? host::to_json_text(*s) : "";
  };
  // With a VMM that runs as it should, nothing is chosen.
  std::optional<host::HostLock> choosing;
  if (!planned.facts.vmm_running || plan->vmm_outdated || text(plan->state) != text(planned.facts.state)) {
    DS_TRY(choosing, lock_host(progress));
  }
  if (choosing || text(now) != text(planned.facts.state)) {
    // Another install may have finished between our look and our locks.
    auto silent = flags;
    silent.json = true;  // what it finds was printed already
    DS_TRY(auto again, preflight(silent, options, streams));
    planned = std::move(again);
  }
  for (const auto& warning : plan->warnings) {
    progress.warn(warning);
  }
  DS_TRY(auto journal, host::Journal::open(plan->layout.journal()));
  bool changed = false;
  progress.step("services run under: " + services->description());
  auto steps = host::install_steps(context);
  if (plan->kms_port != 0 && plan->start) {
    steps.push_back(kms_step(*plan, [&]() -> Result<bool> {
      DS_TRY(const auto vmm, open_vmm(plan->layout, plan->state));
      return bring_up_kms({*plan, vmm, journal, progress});
    }));
  }
  for (const auto& step : steps) {
    auto applied = host::run_step(step, journal);
    if (!applied) {
      auto error = std::move(applied).error();
      if (error.fix.empty()) {
        error.fix =
            "what was made is kept: run install again to go on, or 'dstackup destroy --purge' to take it "
            "away";
      }
      return base::fail(std::move(error), "install stopped at the step " + step.name);
    }
    *applied ? progress.ok(step.name) : progress.skip(step.name + " (as it was)");
    if (step.name == plan->vmm_unit) {
      choosing.reset();
    }
    changed |= *applied;
  }
  if (plan->start) {
    DS_TRY(const auto vmm, open_vmm(plan->layout, plan->state));
    DS_CHECK(vmm.version());
  }
  if (flags.json) {
    streams.out << result_as_json(*plan, changed, progress.elapsed().count()) << '\n';
  } else {
    print_summary(streams, *plan, changed, cli::format_seconds(progress.elapsed()));
  }
  return cli::k_exit_ok;
}

}  // namespace

void add_install(cli::Command& program, const cli::Streams& streams,
                 const std::shared_ptr<const Globals>& globals) {
  auto flags = std::make_shared<Flags>();
  auto& verb = program.verb("install", "set this host up: services, KMS, identities");
  auto& o = flags->options;
  verb.option("--platform", o.platform, "auto, tdx, amd-sev-snp or simulated", "auto");
  verb.option("--prefix", o.prefix, "keep everything below this directory", "the system's directories");
  verb.option("--instance", o.instance, "suffix of the services' names", "from --prefix");
  verb.option("--image", o.image, "guest image: one that is here, or a release to be pulled, such as 0.6.0",
              "the installed one, else the newest");
  verb.option("--dashboard-port", flags->dashboard_port, "port of the VMM's API", "9080");
  verb.option("--auth-port", flags->auth_port, "port of the authorisation webhook", "8001");
  verb.option("--host-api-port", flags->host_api_port, "port on which guests reach the VMM", "10000");
  verb.option("--kms-port", flags->kms_port, "port of the KMS", "a free one");
  verb.option("--cid-start", flags->cid_start, "first vsock address of our VMs", "a free block");
  verb.option("--kms-image", o.kms_image, "container image of the KMS",
              "localhost/dstack-kms:" DSTACK_VERSION);
  verb.flag("--no-kms", o.no_kms, "no KMS: apps get no keys");
  verb.flag("--allow-unpinned-image", o.allow_unpinned_image, "release keys to any guest image");
  verb.option("--qemu", o.qemu, "QEMU program", "qemu-system-x86_64");
  verb.option("--programs-from", o.programs_from, "directory of the programs to be copied and run",
              "the installed ones, else dstackup's own");
  verb.option("--bin-dir", o.bin_dir, "directory for the commands dstack and dstackup", "/usr/local/bin");
  verb.option("--libexec-dir", o.libexec_dir, "directory for the copies of the programs",
              "/usr/local/libexec/dstack");
  verb.option("--share-dir", o.share_dir, "directory of the recipe of images and of the SGX key provider",
              "/usr/local/share/dstack");
  verb.flag("--skip-managed-binaries", o.skip_managed_binaries,
            "copy no programs, run them as they are named; --programs-from takes it back");
  verb.option("--vmm-bin", o.vmm_bin, "run this dstack-vmm as it is; managed takes it back",
              "dstack-vmm with --skip-managed-binaries, else a copy");
  verb.option("--auth-bin", o.auth_bin, "run this dstack-auth as it is; managed takes it back",
              "dstack-auth with --skip-managed-binaries, else a copy");
  verb.option("--supervisor-bin", o.supervisor_bin,
              "where there is no systemd: the dstackup that supervises the services; managed takes it back",
              "a copy of dstackup");
  verb.option("--image-path", o.image_path, "directory of guest images; stays yours",
              "the installation's own");
  verb.option("--release-api-base-url", o.release_api, "release server (GitHub's API), up to /repos",
              host::k_release_api);
  verb.option("--expose", o.expose,
              "serve the VMM's API on this address of the host too, over TLS; none takes it back",
              "loopback only");
  verb.option("--use-existing-key-provider", o.existing_key_provider,
              "SGX key provider that runs already, ADDRESS:PORT; for tdx");
  verb.option("--key-provider-port", flags->key_provider_port, "port of the SGX key provider; for tdx",
              "3443");
  verb.option("--key-provider-src", o.key_provider_src,
              "directory with the docker-compose.yaml of the SGX key provider; for tdx",
              "share/dstack/local-key-provider/build");
  verb.flag("--no-start", o.no_start, "write all files, but start no service and no KMS");
  verb.option("--ignore-preflight-errors", flags->ignored_checks,
              "checks whose failure is only a warning, a,b or all; dstackup doctor names them");
  verb.flag("--dry-run", flags->dry_run, "print what would be done and touch nothing");
  verb.flag("-j,--json", flags->json, "print the result as JSON");
  verb.values("--platform", cli::Values::choice({"auto", "tdx", "amd-sev-snp", "simulated"}));
  verb.values("--image", cli::Values::dynamic("images"));
  verb.values("--image-path", cli::Values::directory());
  verb.values("--programs-from", cli::Values::directory());
  for (const auto* name : {"--qemu", "--vmm-bin", "--auth-bin", "--supervisor-bin"}) {
    verb.values(name, cli::Values::file());
  }
  verb.values("--key-provider-src", cli::Values::directory());
  verb.exclude("--no-kms", "--kms-port");
  verb.exclude("--no-kms", "--kms-image");
  for (const auto* name : {"--programs-from", "--bin-dir", "--libexec-dir"}) {
    verb.exclude("--skip-managed-binaries", name);
  }
  verb.examples(
      "dstackup install --platform simulated\n"
      "dstackup install --platform simulated --dry-run\n"
      "dstackup install --platform simulated --image 0.6.0\n"
      "dstackup install --platform simulated --expose 192.0.2.7\n"
      "dstackup install --platform simulated --prefix /opt/dstack-test --dashboard-port 9180");
  verb.action([flags, globals, &streams] {
    auto& api = flags->options.release_api;
    api = api ? api : globals->release_api;
    return report(streams, flags->json, [&] { return install(*flags, streams); });
  });
}

}  // namespace dstack::dstackup
