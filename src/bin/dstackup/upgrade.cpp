// dstackup upgrade and rollback: other programs for the installation's
// services. VMs are processes of their own and keep running.
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "cli/progress.h"
#include "context.h"
#include "host/image_use.h"
#include "host/install_steps.h"
#include "host/installed_services.h"
#include "host/journal.h"
#include "host/kms_contact.h"
#include "host/named_programs.h"
#include "host/program_source.h"
#include "host/programs.h"
#include "host/upgrade.h"
#include "host/vm_record.h"
#include "verb_action.h"
#include "verbs.h"

namespace dstack::dstackup {

namespace fs = std::filesystem;

using base::Code;
using base::Result;
using Json = nlohmann::ordered_json;

namespace {

// A service that ends later than this after its start is restarted by its
// manager, and seen by 'status'.
constexpr std::chrono::milliseconds k_settle{1'500};

struct Flags {
  std::optional<std::string> prefix;
  std::optional<std::string> from;
  bool dry_run = false;
  bool json = false;
};

struct Installation {
  host::Layout layout;
  host::InstallState state;
  host::ProgramStore store;
};

Result<Installation> open_installation(const Flags& flags) {
  DS_TRY(auto layout, host::Layout::make(flags.prefix));
  DS_TRY(auto state, host::require_state(layout.state_file()));
  layout = host::installed_layout(std::move(layout), state);
  host::ProgramStore store(layout);
  return Installation{std::move(layout), std::move(state), std::move(store)};
}

// How things are, to be compared with how they are afterwards.
struct Health {
  std::vector<host::LiveVm> vms;
  bool kms_answers = false;
};

bool kms_answers(const Installation& at) {
  if (at.state.kms_port == 0 || at.state.kms_ca_cert.empty()) {
    return false;
  }
  const auto expected = host::kms_expectation(at.layout, at.state);
  return expected && host::contact_kms(*expected);
}

Result<> check_services(const Installation& at, host::ServiceManager& services) {
  std::vector<pid_t> pids;
  for (const bool again : {false, true}) {
    std::size_t i = 0;
    for (const auto& unit : {at.state.auth_unit, at.state.vmm_unit}) {
      DS_TRY(const auto status, services.status(unit));
      if (status.state != host::ServiceState::active || (again && pids[i] != status.pid)) {
        return base::fail(Code::service_failed, base::format("{} does not stay up", unit),
                          base::format("its last lines are in 'dstackup status' and its log"));
      }
      pids.push_back(status.pid);
      ++i;
    }
    if (!again) {
      std::this_thread::sleep_for(k_settle);
    }
  }
  return {};
}

Result<> check_health(const Installation& at, host::ServiceManager& services, const Health& before) {
  DS_CHECK(check_services(at, services));
  DS_TRY(const auto vmm, open_vmm(at.layout, at.state));
  if (auto version = vmm.version(); !version) {
    return base::fail(std::move(version).error(), "the VMM's API does not answer");
  }
  const auto now = host::live_vms(at.layout.vms());
  for (const auto& vm : before.vms) {
    const bool there = std::ranges::any_of(
        now, [&](const host::LiveVm& other) { return other.id == vm.id && other.pid == vm.pid; });
    if (!there) {
      return base::fail(Code::service_failed, base::format("the VM {} does not run any more", vm.id));
    }
  }
  if (before.kms_answers && !kms_answers(at)) {
    return base::fail(Code::kms_not_ready, "the KMS does not answer any more");
  }
  return {};
}

Result<> run_programs(const Installation& at, host::ServiceManager& services, const std::string& id) {
  auto state = at.state;
  state.programs_dir = at.store.directory(id).string();
  DS_CHECK(services.start(host::installed_auth_service(at.layout, state)));
  DS_TRY(const auto configuration, base::read_file(at.layout.vmm_toml()));
  DS_TRY(const auto vmm, host::installed_vmm_service(at.layout, state, configuration));
  return services.start(vmm);
}

// Those of the services that run the installation's own programs, and so change with them.
std::vector<std::string> managed_units(const Installation& at) {
  std::vector<std::string> out;
  for (const auto& [named, unit] : {std::pair{&at.state.auth_bin, &at.state.auth_unit},
                                    std::pair{&at.state.vmm_bin, &at.state.vmm_unit}}) {
    if (named->empty()) {
      out.push_back(*unit);
    }
  }
  return out;
}

std::vector<std::string> named_programs(const Installation& at) {
  std::vector<std::string> out;
  for (const auto& named : {at.state.auth_bin, at.state.vmm_bin}) {
    if (!named.empty()) {
      out.push_back(named);
    }
  }
  return out;
}

// What the services run, if it is not `id`: an install may have chosen others and started nothing.
std::optional<std::string> other_running_set(const Installation& at, host::ServiceManager& services,
                                             const std::string& id) {
  std::error_code error;
  for (const auto& unit : managed_units(at)) {
    const auto status = services.status(unit);
    const bool active = status && status->state == host::ServiceState::active;
    auto set = active ? host::set_of_process(at.store, status->pid) : "";
    if (!set.empty() && set != id && fs::is_directory(at.store.directory(set), error)) {
      return set;
    }
  }
  return std::nullopt;
}

host::UpgradeActions actions_for(const Installation& at, host::ServiceManager& services, const Health& before,
                                 cli::Progress& progress) {
  return {[&](const std::string& id) { return run_programs(at, services, id); },
          [&]() { return check_health(at, services, before); },
          [&](std::string_view line) { progress.warn(line); }};
}

std::string shown(const Installation& at, const std::optional<std::string>& id) {
  if (!id) {
    return "none";
  }
  const auto version = host::program_version(at.store.directory(*id) / "dstack-vmm");
  return version ? base::format("{} ({})", *version, *id) : *id;
}

// The record follows, for status and for a later install.
Result<> record(Installation& at, const std::string& id) {
  at.state.programs_dir = at.store.directory(id).string();
  DS_TRY(at.state.version, host::program_version(at.state.vmm_program()));
  const auto text = host::to_json_text(at.state);
  DS_CHECK(host::write_if_different(at.layout.state_file(), text, 0644));
  return {};
}

using Undone = std::optional<host::PendingUpgrade>;

// What both verbs end with. `undone`: a switch of before that was just taken back.
Result<int> switch_programs(const Flags& flags, const cli::Streams& streams, Installation& at,
                            host::ServiceManager& services, const std::string& to, const Undone& undone,
                            cli::Progress& progress) {
  const auto now = at.store.current();
  const auto running = other_running_set(at, services, to);
  const auto from = undone && now == to ? std::optional(undone->to) : running ? running : now;
  const bool there = now == to && !running;
  const Health before{host::live_vms(at.layout.vms()), kms_answers(at)};
  const host::Upgrade upgrade(at.store, at.layout.pending_upgrade(),
                              actions_for(at, services, before, progress));
  const bool changed = from != to;
  if (!there) {
    progress.step(base::format("switching from {} to {}", shown(at, from), shown(at, to)));
    for (const auto& program : named_programs(at)) {
      progress.skip(program + " is left alone: it is run as it is");
    }
    DS_CHECK(upgrade.switch_to(to, running));
    progress.ok(base::format("services run and answer, {} VMs kept running", before.vms.size()));
  }
  DS_CHECK(record(at, to));
  // The VM manager's name is in the units of the VMs that it started.
  DS_CHECK(at.store.prune(/*old_sets=*/before.vms.empty()));
  if (flags.json) {
    streams.out << Json{{"changed", changed},
                        {"from", from.value_or("")},
                        {"to", to},
                        {"previous", at.store.previous().value_or("")},
                        {"vms", before.vms.size()}}
                       .dump()
                << '\n';
  } else if (changed && there) {
    streams.out << "the upgrade that was cut off is undone, " << shown(at, to) << " runs again\n";
  } else if (changed) {
    streams.out << "switched in " << cli::format_seconds(progress.elapsed())
                << "; 'dstackup rollback' switches back\n";
  } else {
    streams.out << "nothing to do, these programs run already\n";
  }
  return cli::k_exit_ok;
}

Result<Undone> recover(Installation& at, host::ServiceManager& services, cli::Progress& progress) {
  const Health nothing;
  auto actions = actions_for(at, services, nothing, progress);
  // How things were before the upgrade is not known any more, but the services must stay up.
  actions.run = [&](const std::string& id) -> Result<> {
    DS_CHECK(run_programs(at, services, id));
    return check_services(at, services);
  };
  const host::Upgrade upgrade(at.store, at.layout.pending_upgrade(), std::move(actions));
  return upgrade.recover();
}

// What recover() would undo.
Result<Undone> unfinished(const Installation& at) {
  return host::Upgrade(at.store, at.layout.pending_upgrade(), {}).unfinished();
}

std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const auto& part : parts) {
    out += (out.empty() ? "" : ", ") + part;
  }
  return out.empty() ? "nothing" : out;
}

Result<int> print_plan(const Flags& flags, const cli::Streams& streams, const Installation& at,
                       const Undone& undone, const std::string& to, const std::string& what) {
  DS_TRY(const auto services, open_services(at.layout, at.state.instance, /*may_start=*/false));
  const auto running = other_running_set(at, *services, to);
  const auto from = undone ? std::optional(undone->to) : running ? running : at.store.current();
  const auto units = managed_units(at);
  const auto named = named_programs(at);
  const auto vms = host::live_vms(at.layout.vms()).size();
  // What is cut off is undone first, whatever comes then.
  const bool changes = undone || from != to;
  if (flags.json) {
    streams.out << Json{{"dryRun", true},
                        {"changes", changes},
                        {"from", from.value_or("")},
                        {"to", to},
                        {"directory", at.store.directory(to).string()},
                        {"restarts", changes ? Json(units) : Json::array()},
                        {"leavesAlone", named},
                        {"vms", vms}}
                       .dump()
                << '\n';
    return cli::k_exit_ok;
  }
  if (!changes) {
    streams.out << "nothing to do, these programs run already (" << to << ")\n";
    return cli::k_exit_ok;
  }
  streams.out << what << '\n'
              << (undone ? "  first      undoes an upgrade that was cut off, back to " + undone->from + "\n"
                         : "")
              << "  now        " << shown(at, from) << '\n'
              << "  then       " << to << " in " << at.store.directory(to).string() << '\n'
              << "  restarts   " << joined(units) << '\n'
              << (named.empty() ? "" : "  not        " + joined(named) + ", run as it is\n")
              << "  keeps      " << vms << " VMs running, configuration, token, allow-list\n"
              << "  goes back  if a service does not stay up, the VMM's API or "
                 "the KMS does not answer, or a "
                 "VM is gone\n";
  return cli::k_exit_ok;
}

Result<int> upgrade(const Flags& flags, const cli::Streams& streams) {
  DS_CHECK(need_root("upgrade"));
  DS_TRY(auto at, open_installation(flags));
  DS_CHECK(host::require_managed_programs(at.state, "upgrade"));
  cli::Progress progress(streams, flags.json);
  std::error_code error;
  const fs::path from =
      flags.from ? fs::absolute(*flags.from) : fs::read_symlink("/proc/self/exe", error).parent_path();
  DS_TRY(const auto source, host::ProgramSource::open(from, at.layout.cache));
  DS_TRY(const auto version, host::check_programs_run(source.programs()));
  if (flags.dry_run) {
    DS_TRY(const auto undone, unfinished(at));
    return print_plan(flags, streams, at, undone, source.programs().id,
                      base::format("upgrade to version {} from {}", version, from.string()));
  }
  DS_TRY(const auto lock, take_lock(at.layout));
  DS_TRY(at, open_installation(flags));
  DS_TRY(const auto services,
         open_services(at.layout, at.state.instance, /*may_start=*/true, at.state.supervisor_bin));
  DS_TRY(const auto undone, recover(at, *services, progress));
  DS_TRY(auto journal, host::Journal::open(at.layout.journal()));
  DS_CHECK(journal.record({host::JournalEntry::Kind::file, at.layout.pending_upgrade().string(), "upgrade"}));
  DS_TRY(const bool added, at.store.add(source.programs()));
  if (added) {
    progress.ok(base::format("programs of version {} put in {}", version,
                             at.store.directory(source.programs().id).string()));
  }
  return switch_programs(flags, streams, at, *services, source.programs().id, undone, progress);
}

Result<int> rollback(const Flags& flags, const cli::Streams& streams) {
  DS_CHECK(need_root("rollback"));
  DS_TRY(auto at, open_installation(flags));
  DS_CHECK(host::require_managed_programs(at.state, "roll back"));
  cli::Progress progress(streams, flags.json);
  const auto previous = [&]() -> Result<std::string> {
    const auto id = at.store.previous();
    if (!id || id == at.store.current()) {
      return base::fail(Code::no_previous, "there are no programs of before to go back to",
                        "name the wanted ones with 'dstackup upgrade --from'");
    }
    return *id;
  };
  if (flags.dry_run) {
    DS_TRY(const auto undone, unfinished(at));
    if (undone) {
      return print_plan(flags, streams, at, undone, undone->from, "undo the upgrade that was cut off");
    }
    DS_TRY(const auto to, previous());
    return print_plan(flags, streams, at, {}, to, "go back to the programs of before");
  }
  DS_TRY(const auto lock, take_lock(at.layout));
  DS_TRY(at, open_installation(flags));
  DS_TRY(const auto services,
         open_services(at.layout, at.state.instance, /*may_start=*/true, at.state.supervisor_bin));
  DS_TRY(const auto undone, recover(at, *services, progress));
  if (undone) {
    // That was the way back.
    return switch_programs(flags, streams, at, *services, undone->from, undone, progress);
  }
  DS_TRY(const auto to, previous());
  DS_TRY(const auto programs, host::inspect_programs(at.store.directory(to)));
  if (programs.id != to) {
    return base::fail(Code::programs,
                      base::format("the programs in {} were changed", programs.directory.string()),
                      "name good ones with 'dstackup upgrade --from'");
  }
  return switch_programs(flags, streams, at, *services, to, {}, progress);
}

}  // namespace

void add_upgrade(cli::Command& program, const cli::Streams& streams) {
  {
    auto flags = std::make_shared<Flags>();
    auto& verb = program.verb("upgrade",
                              "run other programs: switch, check, "
                              "and back again if they are not well");
    verb.option("--from", flags->from, "directory, or tar or tar.gz file, with the programs",
                "dstackup's own directory");
    verb.option("--prefix", flags->prefix, "the installation below this directory");
    verb.flag("--dry-run", flags->dry_run, "print what would be done and touch nothing");
    verb.flag("-j,--json", flags->json, "print the result as JSON");
    verb.values("--from", cli::Values::file());
    verb.examples(
        "dstackup upgrade --from dstack-0.2.0.tar.gz\n"
        "dstackup upgrade --from ./build/bin --dry-run");
    verb.action(
        [flags, &streams] { return report(streams, flags->json, [&] { return upgrade(*flags, streams); }); });
  }
  auto flags = std::make_shared<Flags>();
  auto& verb = program.verb("rollback", "run the programs of before the last upgrade");
  verb.option("--prefix", flags->prefix, "the installation below this directory");
  verb.flag("--dry-run", flags->dry_run, "print what would be done and touch nothing");
  verb.flag("-j,--json", flags->json, "print the result as JSON");
  verb.examples("dstackup rollback\ndstackup rollback --dry-run");
  verb.action(
      [flags, &streams] { return report(streams, flags->json, [&] { return rollback(*flags, streams); }); });
}

}  // namespace dstack::dstackup
