#include "host/install_plan.h"

#include "base/format.h"
#include "host/allowlist_step.h"
#include "host/render.h"
#include "host/volume.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

Result<> check_image(const InstallOptions& options, const InstallFacts& facts, InstallPlan& plan) {
  if (facts.image_problem) {
    return base::fail(*facts.image_problem);
  }
  if (facts.image_to_pull) {
    plan.image_to_pull = facts.image_to_pull->version.empty() ? "the latest release"
                                                              : "the release " + facts.image_to_pull->version;
    return {};
  }
  if (!facts.image) {
    if (options.no_kms) {
      plan.warnings.emplace_back(
          "there is no guest image yet: build one with 'dstackup image build' before a deploy");
      return {};
    }
    return base::fail(Code::image_missing,
                      "there is no guest image with a digest in " + facts.layout.images().string(),
                      "build one with 'dstackup image build', or have a release pulled with --image VERSION");
  }
  plan.image = facts.image->name;
  plan.os_image_hash = facts.image->os_image_hash;
  if (options.allow_unpinned_image && !plan.os_image_hash.empty()) {
    plan.warnings.push_back(base::format(
        "--allow-unpinned-image changes nothing: the guest image {} has a digest, which is pinned",
        plan.image));
  }
  if (plan.os_image_hash.empty() && !options.no_kms && !options.allow_unpinned_image) {
    return base::fail(
        Code::image_unpinned,
        base::format("the guest image {} has no digest.txt, so keys could not be bound to it", plan.image),
        "build the image again, or accept any image with --allow-unpinned-image");
  }
  return {};
}

// Spec 1.6, fail closed: only the flag opens the allow-list, and only while there is no digest to pin.
void choose_image_rule(const InstallOptions& options, const InstallFacts& facts, InstallPlan& plan) {
  if (!plan.image_to_pull.empty()) {
    return;  // whether it has a digest is not known yet
  }
  plan.allow_any_image = options.allow_unpinned_image && plan.os_image_hash.empty();
  if (plan.allow_any_image) {
    plan.warnings.emplace_back(
        "--allow-unpinned-image: keys are released to any guest image; digests that the allow-list has of "
        "others are dropped");
  }
  settle_former_pin(facts, plan);
}

// Settings that are part of what the KMS was measured with, or of how its VM was made.
Result<> check_unchanged_kms(const InstallOptions& options, const InstallState& state) {
  if (!state.kms_vm_id || state.kms_port == 0) {
    return {};
  }
  const auto refuse = [](const char* flag, const std::string& have) {
    return base::fail(
        Code::invalid_argument,
        base::format("{} cannot change while the KMS exists, it was set up with {}", flag, have),
        base::format("leave {} out, or 'dstackup destroy --purge' first (apps lose their keys)", flag));
  };
  if (options.no_kms) {
    return refuse("--no-kms", "a KMS");
  }
  if (options.kms_port && *options.kms_port != state.kms_port) {
    return refuse("--kms-port", std::to_string(state.kms_port));
  }
  if (options.auth_port && *options.auth_port != state.auth_port) {
    return refuse("--auth-port", std::to_string(state.auth_port));
  }
  if (options.kms_image &&
      normalize_image_reference(*options.kms_image) != normalize_image_reference(state.kms_image)) {
    return refuse("--kms-image", state.kms_image);
  }
  return {};
}

template <class Number>
Number first_of(const std::optional<Number>& flag, const std::optional<InstallState>& state,
                Number (*get)(const InstallState&), Number otherwise) {
  if (flag) {
    return *flag;
  }
  const Number kept = state ? get(*state) : Number{0};
  return kept != 0 ? kept : otherwise;
}

template <class Number>
const char* origin(const std::optional<Number>& flag, const std::optional<InstallState>& known, Number value,
                   Number kept, const char* otherwise) {
  return flag ? "as given" : known && kept == value ? "as installed" : otherwise;
}

void describe_ports(const InstallOptions& options, const std::optional<InstallState>& known,
                    InstallPlan& plan) {
  const auto kept = known.value_or(InstallState{});
  const auto add = [&](const char* flag, const std::optional<std::uint16_t>& given, std::uint16_t port,
                       std::uint16_t before, const std::string& user, const char* why,
                       const char* otherwise = "the default") {
    plan.ports.push_back({flag, port, user, why, origin(given, known, port, before, otherwise)});
  };
  add("--dashboard-port", options.dashboard_port, plan.dashboard_port, kept.dashboard_port(), plan.vmm_unit,
      "dstack and the dashboard reach the VMM's API, with the token");
  add("--auth-port", options.auth_port, plan.auth_port, kept.auth_port, plan.auth_unit,
      "the KMS asks who may have keys");
  add("--host-api-port", options.host_api_port, plan.host_api_port, kept.host_api_port, plan.vmm_unit,
      "guests report how their boot goes");
  if (plan.kms_port != 0) {
    add("--kms-port", options.kms_port, plan.kms_port, kept.kms_port, "KMS", "guests get their keys",
        "the first free one");
  }
}

Result<> choose_ports(const InstallOptions& options, const InstallFacts& facts, InstallPlan& plan) {
  DS_TRY(const auto ports, plan_ports(options, facts));
  plan.dashboard_port = ports.dashboard;
  plan.auth_port = ports.auth;
  plan.host_api_port = ports.host_api;
  plan.kms_port = ports.kms;
  if (options.kms_port && *options.kms_port == 0 && !options.no_kms) {
    return base::fail(Code::invalid_argument, "--kms-port 0 is not usable",
                      "choose a port between 1 and 65535");
  }
  if (plan.kms_port > k_last_host_port) {
    return base::fail(
        Code::invalid_argument,
        base::format("--kms-port {} is outside the ports that VMs may be published on", plan.kms_port),
        base::format("choose a port from {} to {}", k_first_host_port, k_last_host_port));
  }
  describe_ports(options, facts.state ? facts.state : facts.last, plan);
  return check_port_numbers(ports.all);
}

Result<> choose_cids(const InstallOptions& options, const InstallFacts& facts, InstallPlan& plan) {
  auto wanted = options.cid_start;
  const auto& known = facts.state ? facts.state : facts.last;
  if (!wanted && known && known->cid_start != 0) {
    // A window that was taken once is kept: the running VMs have addresses in it.
    plan.cid_start = known->cid_start;
    plan.cid_origin = "as installed";
    return {};
  }
  DS_TRY(plan.cid_start, choose_cid_start(wanted, facts.others.cids));
  plan.cid_origin = wanted ? "as given" : "a block that no other VM manager uses";
  return {};
}

Result<> choose_kms(const InstallOptions& options, const InstallFacts& facts, InstallPlan& plan) {
  if (options.no_kms) {
    return {};
  }
  plan.kms_image = kms_image_reference(options, facts);
  DS_CHECK(check_image_reference(plan.kms_image));
  plan.kms_volumes = facts.kms_volumes;
  if (!facts.kms_image_in_volume) {
    if (plan.kms_image.starts_with("localhost/")) {
      return base::fail(Code::image_missing,
                        base::format("no volume of this host holds the KMS image {}", plan.kms_image),
                        "add it with 'dstackup volume add ARCHIVE', or name another with --kms-image");
    }
    plan.warnings.push_back(base::format(
        "the KMS image {} is in no volume of this host, its VM pulls it from the registry", plan.kms_image));
  }
  return {};
}

// What was exposed stays so until it is taken back.
std::string exposed_address(const InstallOptions& options, const std::optional<InstallState>& known) {
  const auto wanted = options.expose.value_or(known ? known->expose : "");
  return wanted == "none" ? "" : wanted;
}

Result<> choose_key_provider(const InstallOptions& options, const InstallFacts& facts, InstallPlan& plan) {
  const auto& known = facts.state ? facts.state : facts.last;
  KeyProviderFlags flags{options.existing_key_provider, options.key_provider_port, options.key_provider_src,
                         options.no_start};
  if (!flags.existing && !flags.port && !flags.source && known && !known->key_provider.empty() &&
      !known->kp_own_project) {
    flags.existing = known->key_provider;
  }
  DS_TRY(plan.key_provider,
         plan_key_provider(facts.platform.value_or(PlatformKind::simulated), flags, plan.layout));
  return {};
}

Result<> choose_programs_to_run(const InstallOptions& options, const InstallFacts& facts, InstallPlan& plan) {
  if (options.supervisor_bin && facts.service_manager == "systemd") {
    return base::fail(Code::invalid_argument,
                      "--supervisor-bin is for hosts without systemd; here systemd runs the services",
                      "leave --supervisor-bin out");
  }
  plan.named = facts.named;
  plan.vmm_program = facts.vmm_program;
  plan.auth_program = facts.auth_program;
  if (plan.named.all) {
    for (const auto& [flag, given] :
         {std::pair{"--bin-dir", &options.bin_dir}, std::pair{"--libexec-dir", &options.libexec_dir}}) {
      if (*given) {
        return base::fail(
            Code::invalid_argument,
            base::format("{}: this installation copies no programs (--skip-managed-binaries)", flag),
            base::format("leave {} out, or have it copy programs again with --programs-from DIR", flag));
      }
    }
  } else if (facts.programs) {
    plan.programs = facts.programs;
    const auto own_copy = ProgramStore(facts.layout).directory(facts.programs->id);
    if (plan.named.vmm.empty()) {
      plan.vmm_program = own_copy / "dstack-vmm";
    }
    if (plan.named.auth.empty()) {
      plan.auth_program = own_copy / "dstack-auth";
    }
  }
  if (!facts.programs_note.empty()) {
    plan.warnings.push_back(facts.programs_note);
  }
  return {};
}

// Of the flags; "" where the layout has the directory anyway.
void note_directories(const InstallOptions& options, const Layout& chosen, InstallState& s) {
  const auto usual = Layout::make(options.prefix);
  const auto differing = [](const fs::path& have, const fs::path& otherwise) {
    return have == otherwise ? std::string() : have.string();
  };
  s.bin_dir = usual ? differing(chosen.bin, usual->bin) : "";
  s.libexec_dir = usual ? differing(chosen.libexec, usual->libexec) : "";
  s.share_dir = usual ? differing(chosen.share, usual->share) : "";
}

void note_programs(const InstallFacts& facts, const InstallPlan& plan, InstallState& s) {
  s.programs_dir = plan.named.all  ? ""
                   : plan.programs ? ProgramStore(facts.layout).directory(plan.programs->id).string()
                                   : facts.program_directory.string();
  s.skip_managed_binaries = plan.named.all;
  s.vmm_bin = plan.named.vmm;
  s.vmm_bin_seen = plan.named.vmm.empty() ? "" : program_mark(plan.named.vmm);
  s.auth_bin = plan.named.auth;
  s.auth_bin_seen = plan.named.auth.empty() ? "" : program_mark(plan.named.auth);
  s.supervisor_bin = plan.named.supervisor;
  s.version = facts.programs_version;
}

void fill_state(const InstallOptions& options, const InstallFacts& facts, InstallPlan& plan) {
  const auto& l = plan.layout;
  InstallState s = facts.state ? *facts.state : facts.last ? *facts.last : InstallState{};
  s.prefix = l.state.string();
  s.install_prefix = options.prefix;
  s.config_dir = l.config.string();
  s.state_dir = l.state.string();
  s.cache_dir = l.cache.string();
  s.run_dir = l.run.string();
  s.allowlist_path = l.allowlist().string();
  s.platform = plan.platform;
  s.client_url = base::format("http://127.0.0.1:{}", plan.dashboard_port);
  s.client_token_path = l.token_file().string();
  s.auth_port = plan.auth_port;
  s.vmm_unit = plan.vmm_unit;
  s.auth_unit = plan.auth_unit;
  s.kms_url = plan.kms_port == 0 ? "" : kms_url_for_guests(plan.kms_port);
  s.image = plan.image.empty() ? std::nullopt : std::optional(plan.image);
  s.os_image_hash = plan.os_image_hash;
  s.journal = l.journal().string();
  s.instance = plan.instance;
  note_directories(options, l, s);
  note_programs(facts, plan, s);
  s.qemu_path = plan.qemu;
  s.kms_image = plan.kms_image;
  s.host_api_port = plan.host_api_port;
  s.cid_start = plan.cid_start;
  s.kms_port = plan.kms_port;
  s.expose = plan.expose;
  s.tls_cert = plan.expose.empty() ? "" : l.tls_cert().string();
  s.image_path = l.image_path ? l.image_path->string() : "";
  s.key_provider = plan.key_provider.address.empty()
                       ? ""
                       : base::format("{}:{}", plan.key_provider.address, plan.key_provider.port);
  s.kp_own_project =
      plan.key_provider.project.empty() ? std::nullopt : std::optional(plan.key_provider.project);
  plan.state = std::move(s);
}

void describe_running(const InstallFacts& facts, InstallPlan& plan) {
  plan.kms_up = facts.kms_running && facts.state && !facts.state->kms_ca_cert.empty();
  if (!facts.state) {
    return;
  }
  const auto& before = *facts.state;
  const ProgramStore store(facts.layout);
  // The record may be of an install that started nothing.
  const auto other_set = [&](const std::string& set, const fs::path& program) {
    return !set.empty() && store.directory(set) != program.parent_path();
  };
  plan.auth_outdated = before.auth_port != plan.auth_port || before.auth_program() != plan.auth_program ||
                       before.auth_bin_seen != plan.state.auth_bin_seen ||
                       other_set(facts.auth_set, plan.auth_program);
  plan.vmm_outdated = before.vmm_program() != plan.vmm_program ||
                      before.vmm_bin_seen != plan.state.vmm_bin_seen ||
                      other_set(facts.vmm_set, plan.vmm_program);
  if (facts.vms_running && facts.state->host_api_port != plan.host_api_port) {
    plan.warnings.emplace_back(
        "VMs that run reach the VMM at the host API's old port until they are started again");
  }
}

}  // namespace

Result<PortPlan> plan_ports(const InstallOptions& options, const InstallFacts& facts) {
  const auto& known = facts.state ? facts.state : facts.last;
  using Get = std::uint16_t (*)(const InstallState&);
  const Get dashboard = [](const InstallState& s) { return s.dashboard_port(); };
  const Get auth = [](const InstallState& s) { return s.auth_port; };
  const Get host_api = [](const InstallState& s) { return s.host_api_port; };
  const Get kms = [](const InstallState& s) { return s.kms_port; };
  const auto ours = [&](std::uint16_t port, Get get, bool running) {
    return facts.state && running && get(*facts.state) == port;
  };
  const bool vmm_ours = facts.vmm_running || facts.vmm_stray;
  PortPlan out;
  out.dashboard = first_of<std::uint16_t>(options.dashboard_port, known, dashboard, k_default_dashboard_port);
  out.auth = first_of<std::uint16_t>(options.auth_port, known, auth, k_default_auth_port);
  out.host_api = first_of<std::uint16_t>(options.host_api_port, known, host_api, k_default_host_api_port);
  const std::string loopback = "127.0.0.1";
  out.all = {
      {"--dashboard-port", loopback, out.dashboard, ours(out.dashboard, dashboard, vmm_ours)},
      {"--auth-port", loopback, out.auth, ours(out.auth, auth, facts.auth_running || facts.auth_stray)},
      {"--host-api-port", loopback, out.host_api, ours(out.host_api, host_api, vmm_ours)}};
  if (facts.platform == PlatformKind::tdx) {
    out.key_provider = options.key_provider_port.value_or(k_default_key_provider_port);
    const bool own_project = known && known->kp_own_project == key_provider_project(out.key_provider);
    // One that runs already is somebody else's, and so is its port.
    const bool kept = known && !known->key_provider.empty() && !known->kp_own_project &&
                      !options.key_provider_port && !options.key_provider_src;
    if (!options.existing_key_provider && !kept) {
      out.all.push_back({"--key-provider-port", loopback, out.key_provider, own_project});
    }
  }
  if (const auto exposed = exposed_address(options, known); !exposed.empty()) {
    const bool same = vmm_ours && facts.state && facts.state->expose == exposed &&
                      facts.state->dashboard_port() == out.dashboard;
    out.all.push_back({"--expose", exposed, out.dashboard, same});
  }
  if (!options.no_kms) {
    out.kms = first_of<std::uint16_t>(options.kms_port, known, kms, 0);
    if (out.kms == 0) {
      auto taken = facts.others.kms_ports;
      for (const auto& port : out.all) {
        taken.push_back(port.port);
      }
      DS_TRY(out.kms, pick_host_port(k_first_kms_port, taken, facts.port_is_free));
    }
    out.all.push_back({"--kms-port", loopback, out.kms, ours(out.kms, kms, facts.kms_running)});
  }
  return out;
}

Result<InstallPlan> make_plan(const InstallOptions& options, const InstallFacts& facts) {
  InstallPlan plan;
  plan.layout = facts.layout;
  plan.instance = facts.instance;
  if (facts.state_problem) {
    return base::fail(*facts.state_problem);
  }
  if (facts.platform_problem) {
    return base::fail(*facts.platform_problem);
  }
  plan.platform = facts.platform ? to_string(*facts.platform) : "";
  plan.vmm_unit = unit_name("dstack-vmm", facts.instance);
  plan.auth_unit = unit_name("dstack-auth", facts.instance);
  plan.qemu = facts.qemu;
  DS_CHECK(choose_programs_to_run(options, facts, plan));
  plan.cgroup_root = facts.cgroup_root;
  if (facts.state) {
    if (facts.state->platform != plan.platform) {
      return base::fail(Code::invalid_argument,
                        base::format("this installation is for the platform {}, not {}",
                                     facts.state->platform, plan.platform),
                        "take it down first with 'dstackup destroy', or install beside it with --prefix");
    }
    if (facts.state->instance != plan.instance) {
      return base::fail(Code::invalid_argument,
                        base::format("this installation is the instance '{}', not '{}'",
                                     facts.state->instance, plan.instance),
                        "leave --instance as it was, or install beside it with --prefix");
    }
  }
  if (const auto& known = facts.state ? facts.state : facts.last) {
    DS_CHECK(check_unchanged_kms(options, *known));
  }
  DS_CHECK(check_image(options, facts, plan));
  choose_image_rule(options, facts, plan);
  DS_CHECK(choose_kms(options, facts, plan));
  DS_CHECK(choose_ports(options, facts, plan));
  DS_CHECK(choose_cids(options, facts, plan));
  plan.expose = exposed_address(options, facts.state ? facts.state : facts.last);
  DS_CHECK(choose_key_provider(options, facts, plan));
  plan.start = !options.no_start;
  for (const auto& other : facts.others.vmms) {
    plan.warnings.push_back(
        base::format("another VM manager runs here (pid {}, {})", other.pid, other.config));
  }
  fill_state(options, facts, plan);
  describe_running(facts, plan);
  return plan;
}

}  // namespace dstack::host
