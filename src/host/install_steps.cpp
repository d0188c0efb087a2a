#include "host/install_steps.h"

#include <sys/stat.h>

#include <algorithm>

#include "attest/simulated.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/random.h"
#include "host/allowlist_step.h"
#include "host/installed_services.h"
#include "host/optional_steps.h"
#include "host/program_step.h"
#include "host/render.h"
#include "host/token.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Kind = JournalEntry::Kind;

namespace {

bool is_there(const fs::path& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0;
}

// `path` and its missing parents, outermost first.
void add_missing(const fs::path& path, const char* note, std::vector<JournalEntry>& out) {
  std::vector<JournalEntry> chain;
  for (fs::path at = path; !is_there(at) && at.has_relative_path(); at = at.parent_path()) {
    chain.insert(chain.begin(), JournalEntry{Kind::directory, at.string(), note});
  }
  out.insert(out.end(), chain.begin(), chain.end());
}

Result<bool> make_if_missing(const fs::path& path, mode_t mode) {
  if (is_there(path)) {
    return false;
  }
  DS_CHECK(base::make_dirs(path, mode));
  return true;
}

bool is_different(const fs::path& path, std::string_view text, mode_t mode) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || (info.st_mode & 07777) != mode) {
    return true;
  }
  const auto existing = base::read_file(path);
  return !existing || *existing != text;
}

std::string make_or_change(const fs::path& path, std::string_view text, mode_t mode) {
  return !is_there(path) ? "make" : is_different(path, text, mode) ? "change" : "";
}

InstallStep directories_step(InstallContext& context) {
  const auto& l = context.plan.layout;
  InstallStep step{"directories", "configuration, state and run-time files", {}, {}, {}};
  add_missing(l.config, "configuration", step.creates);
  add_missing(l.run.parent_path(), "run-time files", step.creates);
  for (const auto& [path, note] :
       {std::pair{l.run, "run-time files"}, std::pair{l.cache, "build caches, with all that is in them"},
        std::pair{l.vms(), "VMs"}, std::pair{l.logs(), "service logs"}, std::pair{l.volumes(), "volumes"}}) {
    step.creates.push_back({Kind::tree, path.string(), note});
  }
  std::vector<std::pair<fs::path, mode_t>> wanted = {
      {l.config, 0755}, {l.run, 0755}, {l.vms(), 0700}, {l.logs(), 0750}, {l.volumes(), 0755}};
  if (!l.image_path) {
    // A directory of the user's own is not ours to make or to remove.
    step.creates.push_back({Kind::tree, l.images().string(), "guest images"});
    wanted.emplace_back(l.images(), 0755);
  }
  step.pending = [wanted] {
    return std::ranges::all_of(wanted, [](const auto& directory) { return is_there(directory.first); })
               ? std::string()
               : std::string("make");
  };
  step.apply = [wanted]() -> Result<bool> {
    bool changed = false;
    for (const auto& [path, mode] : wanted) {
      DS_TRY(const bool made, make_if_missing(path, mode));
      changed |= made;
    }
    return changed;
  };
  return step;
}

bool has_no_token(const fs::path& path) {
  const auto text = base::read_file(path, 4096);
  return text ? base::trim(*text).empty() : text.error().code == Code::not_found;
}

InstallStep token_step(InstallContext& context) {
  const auto path = context.plan.layout.token_file();
  InstallStep step{
      "token", "whoever talks to the VMM's API must have it", {{Kind::file, path.string(), "token"}}, {}, {}};
  step.pending = [path]() -> std::string {
    const auto existing = read_token(path);
    return existing             ? make_or_change(path, *existing, 0600)
           : has_no_token(path) ? "make"
                                : "cannot be used: " + existing.error().what();
  };
  step.apply = [path]() -> Result<bool> {
    if (!has_no_token(path)) {
      DS_TRY(const auto existing, read_token(path));
      return write_if_different(path, existing, 0600);
    }
    DS_TRY(const auto random, crypto::random_bytes(32));
    DS_CHECK(base::write_file_atomic(path, base::to_hex(random), {.mode = 0600, .force_mode = true}));
    return true;
  };
  return step;
}

InstallStep simulated_tee_step(InstallContext& context) {
  const auto l = context.plan.layout;
  return {
      "simulated TEE",
      "seed and root certificate of this host's simulated evidence",
      {{Kind::tree, l.simulated_tee().string(), "simulated TEE"}},
      [l] { return std::string(is_there(l.simulated_seed()) && is_there(l.simulated_root()) ? "" : "make"); },
      [l] { return ensure_simulated_tee(l); }};
}

struct WantedFile {
  fs::path path;
  std::string text;
  mode_t mode = 0;
};

std::string vmm_configuration(const InstallPlan& plan) {
  VmmConfigValues values;
  values.layout = plan.layout;
  values.platform = plan.platform;
  values.qemu_path = plan.qemu;
  values.dashboard_port = plan.dashboard_port;
  values.host_api_port = plan.host_api_port;
  values.cid_start = plan.cid_start;
  values.kms_port = plan.kms_port;
  values.cgroup_root = plan.cgroup_root;
  values.expose = plan.expose;
  values.key_provider_address = plan.key_provider.address;
  values.key_provider_port = plan.key_provider.port;
  return render_vmm_toml(values);
}

InstallStep configuration_step(InstallContext& context) {
  const auto& plan = context.plan;
  const auto& l = plan.layout;
  InstallStep step{"configuration",
                   base::format("VMM API on port {}, webhook on {}, host API on {}, VM addresses from {}",
                                plan.dashboard_port, plan.auth_port, plan.host_api_port, plan.cid_start),
                   {{Kind::file, l.vmm_toml().string(), "VMM configuration"}},
                   {},
                   {}};
  std::vector<WantedFile> files = {{l.vmm_toml(), vmm_configuration(plan), 0600}};
  if (plan.kms_port != 0) {
    step.creates.push_back({Kind::file, l.kms_toml().string(), "KMS configuration"});
    files.push_back({l.kms_toml(), kms_configuration(plan), 0644});
  }
  step.pending = [files] {
    std::string out;
    for (const auto& file : files) {
      const auto todo = make_or_change(file.path, file.text, file.mode);
      out = todo.empty() ? out : todo;
    }
    return out;
  };
  step.apply = [files]() -> Result<bool> {
    bool changed = false;
    for (const auto& file : files) {
      DS_TRY(const bool written, write_if_different(file.path, file.text, file.mode));
      changed |= written;
    }
    return changed;
  };
  return step;
}

InstallStep state_step(InstallContext& context) {
  const auto path = context.plan.layout.state_file();
  return {"record",
          "what is installed, for dstack and dstackup",
          {{Kind::file, path.string(), "record"}},
          [&context, path] {
            auto state = context.plan.state;
            state.service_manager = context.services.kind();
            return make_or_change(path, to_json_text(state), 0644);
          },
          [&context, path]() -> Result<bool> {
            context.plan.state.service_manager = context.services.kind();
            return write_if_different(path, to_json_text(context.plan.state), 0644);
          }};
}

std::vector<JournalEntry> service_entries(const InstallContext& context, const std::string& unit) {
  if (context.services.kind() == "systemd") {
    return {{Kind::unit_file, "/etc/systemd/system/" + unit + ".service", "unit"},
            {Kind::service, unit, "systemd"}};
  }
  return {{Kind::supervisor, context.plan.layout.supervisor_socket().string(), "supervisor"},
          {Kind::service, unit, "supervisor"}};
}

// "start", "restart" or nothing.
std::string service_pending(const InstallContext& context, const std::string& unit, bool outdated) {
  const auto status = context.services.status(unit);
  return !status || status->state != ServiceState::active ? "start" : outdated ? "restart" : "";
}

Result<bool> bring_up(const InstallContext& context, const ServiceSpec& spec) {
  // A manager that does not answer is replaced by the start.
  const auto before = context.services.status(spec.name);
  DS_CHECK(context.services.start(spec));
  DS_TRY(const auto after, context.services.status(spec.name));
  if (!before || before->pid != after.pid) {
    return true;
  }
  const bool hangs = context.answers && !context.answers(spec.name);
  if (hangs) {
    DS_CHECK(context.services.restart(spec));
  }
  return hangs;
}

InstallStep auth_step(InstallContext& context) {
  const auto& plan = context.plan;
  const auto spec = installed_auth_service(plan.layout, plan.state);
  return {plan.auth_unit, base::format("the KMS asks it on port {} who may have keys", plan.auth_port),
          service_entries(context, plan.auth_unit),
          [&context] { return service_pending(context, context.plan.auth_unit, context.plan.auth_outdated); },
          [&context, spec] { return bring_up(context, spec); }};
}

InstallStep vmm_step(InstallContext& context) {
  const auto& plan = context.plan;
  const auto configuration = vmm_configuration(plan);
  const auto pending = [&context, configuration] {
    const auto& p = context.plan;
    return service_pending(context, p.vmm_unit,
                           p.vmm_outdated || !is_there(p.layout.token_file()) ||
                               is_different(p.layout.vmm_toml(), configuration, 0600));
  };
  return {plan.vmm_unit,
          base::format("makes and keeps the VMs; its API is http://127.0.0.1:{}", plan.dashboard_port),
          service_entries(context, plan.vmm_unit), pending, [&context, configuration]() -> Result<bool> {
            const auto& p = context.plan;
            DS_TRY(const auto spec, installed_vmm_service(p.layout, p.state, configuration));
            return bring_up(context, spec);
          }};
}

}  // namespace

std::string kms_configuration(const InstallPlan& plan) {
  return render_kms_toml({.auth_port = plan.auth_port,
                          .simulated = plan.platform == "simulated",
                          .snp = plan.platform == "amd-sev-snp"});
}

Result<bool> write_if_different(const std::filesystem::path& path, std::string_view text, mode_t mode) {
  if (!is_different(path, text, mode)) {
    return false;
  }
  DS_CHECK(base::write_file_atomic(path, text, {.mode = mode, .force_mode = true}));
  return true;
}

Result<bool> ensure_simulated_tee(const Layout& layout) {
  if (!is_there(layout.simulated_tee())) {
    DS_CHECK(base::make_dirs(layout.simulated_tee(), 0700));
  }
  bool changed = false;
  std::string seed_hex;
  if (const auto existing = base::read_file(layout.simulated_seed(), 4096)) {
    seed_hex = base::trim(*existing);
  } else if (existing.error().code == Code::not_found) {
    DS_TRY(const auto random, crypto::random_bytes(32));
    seed_hex = base::to_hex(random);
    DS_CHECK(base::write_file_atomic(layout.simulated_seed(), seed_hex + "\n",
                                     {.mode = 0600, .force_mode = true}));
    changed = true;
  } else {
    return base::fail(existing.error());
  }
  const auto seed = base::from_hex(seed_hex);
  if (!seed || seed->size() != 32) {
    return base::fail(Code::state_corrupt, layout.simulated_seed().string() + " does not hold 64 hex digits",
                      "restore it from a backup, or 'dstackup destroy --purge' and install again");
  }
  // The root's signature differs from call to call, so a new seed or a missing root makes a new file and
  // nothing else.
  if (!changed && is_there(layout.simulated_root())) {
    return false;
  }
  DS_TRY(const auto platform, attest::SimulatedPlatform::from_seed(*seed));
  DS_CHECK(base::write_file_atomic(layout.simulated_root(), platform.root_pem(),
                                   {.mode = 0644, .force_mode = true}));
  return true;
}

std::vector<InstallStep> install_steps(InstallContext& context) {
  std::vector<InstallStep> steps;
  steps.push_back(directories_step(context));
  if (context.plan.programs) {
    steps.push_back(programs_step(context));
  }
  steps.push_back(token_step(context));
  if (context.plan.platform == "simulated") {
    steps.push_back(simulated_tee_step(context));
  }
  if (!context.plan.expose.empty()) {
    steps.push_back(expose_step(context));
  }
  if (!context.plan.key_provider.project.empty()) {
    steps.push_back(key_provider_step(context));
  }
  steps.push_back(allowlist_step(context));
  steps.push_back(configuration_step(context));
  // Before the services: whatever happens next, status and destroy know their names.
  steps.push_back(state_step(context));
  if (context.plan.start) {
    steps.push_back(auth_step(context));
    steps.push_back(vmm_step(context));
    if (context.plan.programs) {
      steps.push_back(programs_well_step(context));
    }
    if (auto former = former_programs_step(context)) {
      steps.push_back(std::move(*former));
    }
  }
  return steps;
}

Result<bool> run_step(const InstallStep& step, Journal& journal) {
  for (const auto& entry : step.creates) {
    DS_CHECK(journal.record(entry));
  }
  return step.apply();
}

}  // namespace dstack::host
