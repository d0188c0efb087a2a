#include "host/install_steps.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "app/allowlist_file.h"
#include "attest/simulated.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/random.h"
#include "host/render.h"

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

InstallStep directories_step(InstallContext& context) {
  const auto& l = context.plan.layout;
  InstallStep step{"directories", "configuration, state and run-time files", {}, {}};
  add_missing(l.config, "configuration", step.creates);
  add_missing(l.run.parent_path(), "run-time files", step.creates);
  for (const auto& [path, note] :
       {std::pair{l.run, "run-time files"}, std::pair{l.cache, "build caches"}, std::pair{l.vms(), "VMs"},
        std::pair{l.logs(), "service logs"}, std::pair{l.images(), "guest images"},
        std::pair{l.volumes(), "volumes"}}) {
    step.creates.push_back({Kind::tree, path.string(), note});
  }
  step.apply = [l]() -> Result<bool> {
    bool changed = false;
    for (const auto& [path, mode] :
         {std::pair{l.config, mode_t{0755}}, std::pair{l.run, mode_t{0755}}, std::pair{l.vms(), mode_t{0700}},
          std::pair{l.logs(), mode_t{0750}}, std::pair{l.images(), mode_t{0755}},
          std::pair{l.volumes(), mode_t{0755}}}) {
      DS_TRY(const bool made, make_if_missing(path, mode));
      changed |= made;
    }
    return changed;
  };
  return step;
}

InstallStep token_step(InstallContext& context) {
  const auto path = context.plan.layout.token_file();
  InstallStep step{
      "token", "whoever talks to the VMM's API must have it", {{Kind::file, path.string(), "token"}}, {}};
  step.apply = [path]() -> Result<bool> {
    const auto existing = base::read_file(path, 4096);
    if (existing && !base::trim(*existing).empty()) {
      return write_if_different(path, base::trim(*existing), 0600);
    }
    if (!existing && existing.error().code != Code::not_found) {
      return base::fail(existing.error());
    }
    DS_TRY(const auto random, crypto::random_bytes(32));
    DS_CHECK(base::write_file_atomic(path, base::to_hex(random), {.mode = 0600, .force_mode = true}));
    return true;
  };
  return step;
}

InstallStep simulated_tee_step(InstallContext& context) {
  const auto l = context.plan.layout;
  return {"simulated TEE",
          "seed and root certificate of this host's simulated evidence",
          {{Kind::tree, l.simulated_tee().string(), "simulated TEE"}},
          [l] { return ensure_simulated_tee(l); }};
}

InstallStep allowlist_step(InstallContext& context) {
  const auto path = context.plan.layout.allowlist();
  const auto hash = context.plan.os_image_hash;
  InstallStep step{
      "allow-list",
      hash.empty() ? "any guest image may get keys" : "guest image " + hash.substr(0, 16) + "… may get keys",
      {{Kind::file, path.string(), "allow-list"}, {Kind::file, path.string() + ".lock", "allow-list"}},
      {}};
  const bool any = hash.empty() && !context.plan.image.empty();
  step.apply = [path, hash, any]() -> Result<bool> {
    // Merged under its lock: apps and images that are registered stay.
    const app::AllowlistFile file(path);
    DS_TRY(bool changed, file.create_if_missing());
    DS_TRY(const bool device, file.set_kms_allow_any_device(true));
    changed |= device;
    if (any) {
      DS_TRY(const bool allowed, file.set_allow_any_os_image(true));
      changed |= allowed;
    } else if (!hash.empty()) {
      DS_TRY(const bool pinned, file.pin_image(hash));
      DS_TRY(const bool closed, file.set_allow_any_os_image(false));
      changed |= pinned || closed;
    }
    return changed;
  };
  return step;
}

InstallStep configuration_step(InstallContext& context) {
  const auto& plan = context.plan;
  const auto& l = plan.layout;
  InstallStep step{"configuration",
                   base::format("VMM API on port {}, webhook on {}, host API on {}, VM addresses from {}",
                                plan.dashboard_port, plan.auth_port, plan.host_api_port, plan.cid_start),
                   {{Kind::file, l.vmm_toml().string(), "VMM configuration"}},
                   {}};
  if (plan.kms_port != 0) {
    step.creates.push_back({Kind::file, l.kms_toml().string(), "KMS configuration"});
  }
  step.apply = [&context]() -> Result<bool> {
    const auto& p = context.plan;
    VmmConfigValues values;
    values.layout = p.layout;
    values.platform = p.platform;
    values.qemu_path = p.qemu;
    values.dashboard_port = p.dashboard_port;
    values.host_api_port = p.host_api_port;
    values.cid_start = p.cid_start;
    values.kms_port = p.kms_port;
    values.cgroup_root = p.cgroup_root;
    DS_TRY(context.vmm_config_changed,
           write_if_different(p.layout.vmm_toml(), render_vmm_toml(values), 0600));
    bool changed = context.vmm_config_changed;
    if (p.kms_port != 0) {
      const auto text = render_kms_toml({.auth_port = p.auth_port, .simulated = p.platform == "simulated"});
      DS_TRY(const bool kms, write_if_different(p.layout.kms_toml(), text, 0644));
      changed |= kms;
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

InstallStep auth_step(InstallContext& context) {
  const auto& plan = context.plan;
  const auto spec = auth_service(plan.layout, plan.auth_unit, plan.auth_program, plan.auth_port);
  return {plan.auth_unit, base::format("the KMS asks it on port {} who may have keys", plan.auth_port),
          service_entries(context, plan.auth_unit), [&context, spec]() -> Result<bool> {
            DS_TRY(const auto before, context.services.status(spec.name));
            DS_CHECK(context.services.start(spec));
            DS_TRY(const auto after, context.services.status(spec.name));
            return before.pid != after.pid;
          }};
}

InstallStep vmm_step(InstallContext& context) {
  const auto& plan = context.plan;
  const auto spec = vmm_service(plan.layout, plan.vmm_unit, plan.auth_unit, plan.vmm_program);
  return {plan.vmm_unit,
          base::format("makes and keeps the VMs; its API is http://127.0.0.1:{}", plan.dashboard_port),
          service_entries(context, plan.vmm_unit), [&context, spec]() -> Result<bool> {
            DS_TRY(const auto before, context.services.status(spec.name));
            if (context.vmm_config_changed && before.state == ServiceState::active) {
              DS_CHECK(context.services.restart(spec));
            } else {
              DS_CHECK(context.services.start(spec));
            }
            DS_TRY(const auto after, context.services.status(spec.name));
            return before.pid != after.pid;
          }};
}

}  // namespace

Result<bool> write_if_different(const std::filesystem::path& path, std::string_view text, mode_t mode) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & 07777) == mode) {
    const auto existing = base::read_file(path);
    if (existing && *existing == text) {
      return false;
    }
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
  steps.push_back(token_step(context));
  if (context.plan.platform == "simulated") {
    steps.push_back(simulated_tee_step(context));
  }
  steps.push_back(allowlist_step(context));
  steps.push_back(configuration_step(context));
  // Before the services: whatever happens next, status and destroy know their names.
  steps.push_back(state_step(context));
  steps.push_back(auth_step(context));
  steps.push_back(vmm_step(context));
  return steps;
}

Result<bool> run_step(const InstallStep& step, Journal& journal) {
  for (const auto& entry : step.creates) {
    DS_CHECK(journal.record(entry));
  }
  return step.apply();
}

std::string plan_as_text(const InstallPlan& plan, const std::vector<InstallStep>& steps) {
  std::string out = base::format("platform {}, guest image {}, installation below {}\n", plan.platform,
                                 plan.image.empty() ? "none" : plan.image,
                                 plan.layout.prefix ? plan.layout.prefix->string() : "/");
  for (const auto& step : steps) {
    out += base::format("  {}: {}\n", step.name, step.why);
    for (const auto& entry : step.creates) {
      out += base::format("      {} {}\n", to_string(entry.kind), entry.name);
    }
  }
  if (plan.kms_port != 0) {
    out += base::format("  KMS: a VM from {} with image {}, reached on port {}\n", plan.kms_image, plan.image,
                        plan.kms_port);
  }
  return out;
}

std::string plan_as_json(const InstallPlan& plan, const std::vector<InstallStep>& steps) {
  nlohmann::ordered_json json;
  json["dryRun"] = true;
  json["platform"] = plan.platform;
  json["image"] = plan.image;
  json["osImageHash"] = plan.os_image_hash;
  json["ports"] = {{"dashboard", plan.dashboard_port},
                   {"auth", plan.auth_port},
                   {"hostApi", plan.host_api_port},
                   {"kms", plan.kms_port}};
  json["cidStart"] = plan.cid_start;
  json["steps"] = nlohmann::ordered_json::array();
  for (const auto& step : steps) {
    nlohmann::ordered_json item = {{"name", step.name}, {"why", step.why}};
    item["creates"] = nlohmann::ordered_json::array();
    for (const auto& entry : step.creates) {
      item["creates"].push_back({{"kind", to_string(entry.kind)}, {"name", entry.name}});
    }
    json["steps"].push_back(std::move(item));
  }
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace dstack::host
