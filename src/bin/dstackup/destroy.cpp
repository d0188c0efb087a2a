#include <algorithm>
#include <array>
#include <filesystem>
#include <ostream>
#include <set>
#include <thread>

#include "base/format.h"
#include "base/fs.h"
#include "cli/progress.h"
#include "context.h"
#include "host/journal.h"
#include "host/key_provider.h"
#include "host/state.h"
#include "host/uninstall.h"
#include "host/vm_record.h"
#include "verb_action.h"
#include "verbs.h"

namespace dstack::dstackup {

using base::Code;
using base::Result;
using Kind = host::JournalEntry::Kind;

namespace {

namespace fs = std::filesystem;

struct Flags {
  std::optional<std::string> prefix;
  std::optional<std::string> instance;
  bool purge = false;
};

// The installation as far as it can still be known.
struct Found {
  host::Layout layout;
  std::string instance;
  std::optional<host::InstallState> state;  // absent too when the file is corrupt
  std::vector<host::JournalEntry> journal;
};

Result<Found> find(const Flags& flags, host::Layout layout, cli::Progress& progress) {
  Found out;
  out.layout = std::move(layout);
  DS_TRY(out.instance, host::instance_name(flags.instance, flags.prefix));
  auto state = host::load_state(out.layout.state_file());
  if (state) {
    out.state = std::move(*state);
  } else if (state.error().code == Code::state_newer) {
    return base::fail(std::move(state).error());
  } else {
    progress.warn(state.error().what() + "; going by the journal");
  }
  if (out.state && !flags.instance) {
    out.instance = out.state->instance;
  }
  DS_TRY(out.journal, host::Journal::read(out.layout.journal()));
  return out;
}

// In the order in which they must stop: the last one started first.
std::vector<std::string> service_names(const Found& found) {
  std::vector<std::string> out;
  const auto add = [&](const std::string& name) {
    if (!name.empty() && std::ranges::find(out, name) == out.end()) {
      out.push_back(name);
    }
  };
  if (found.state) {
    add(found.state->vmm_unit);
    add(found.state->auth_unit);
  }
  for (auto it = found.journal.rbegin(); it != found.journal.rend(); ++it) {
    // The record is checked when it is read, and what a damaged journal names is not ours to stop.
    if (it->kind == Kind::service && host::is_own_unit(it->name)) {
      add(it->name);
    }
  }
  return out;
}

std::set<std::string> compose_projects(const Found& found) {
  std::set<std::string> out;
  for (const auto& entry : found.journal) {
    if (entry.kind == Kind::compose && host::is_own_project(entry.name)) {
      out.insert(entry.name);
    }
  }
  if (found.state && found.state->kp_own_project) {
    out.insert(*found.state->kp_own_project);
  }
  return out;
}

// The VMM goes first, so that it does not start its VMs again; what it keeps of them still says "running", so
// that a later install brings them back.
Result<> stop_everything(const Found& found, cli::Progress& progress) {
  const auto waiting = [&](std::string_view text) { progress.waiting(text); };
  DS_TRY(const auto services, open_services(found.layout, found.instance, /*may_start=*/false, {}, waiting));
  const auto names = service_names(found);
  std::vector<host::LiveVm> vms;
  Result<> killed;
  std::jthread killer;  // the VMs end while the other services do
  for (const auto& name : names) {
    DS_CHECK(services->remove(name));
    progress.ok("stopped " + name);
    if (!killer.joinable()) {
      vms = host::live_vms(found.layout.vms());
      killer = std::jthread([&] { killed = host::kill_vms(found.layout.vms()); });
    }
  }
  if (killer.joinable()) {
    killer.join();
  } else {
    killed = host::kill_vms(found.layout.vms());
  }
  DS_CHECK(std::move(killed));
  if (!vms.empty()) {
    progress.ok(base::format("stopped {} VMs", vms.size()));
  }
  DS_CHECK(services->shut_down());
  for (const auto& project : compose_projects(found)) {
    DS_TRY(const bool stopped, host::stop_key_provider(project));
    if (stopped) {
      progress.ok("stopped " + project);
    } else {
      progress.warn("docker is not installed: if containers of " + project + " run, they go on");
    }
  }
  for (const auto& entry : found.journal) {
    // A crash may have left one that the manager does not know.
    const fs::path file(entry.name);
    if (entry.kind == Kind::unit_file && file.parent_path() == "/etc/systemd/system" &&
        file.extension() == ".service" && host::is_own_unit(file.stem().string())) {
      DS_CHECK(base::remove_file(file));
    }
  }
  return {};
}

Result<std::optional<base::FileLock>> lock_if_there(const host::Layout& layout) {
  std::error_code error;
  std::optional<base::FileLock> lock;
  if (fs::exists(layout.state, error)) {
    DS_TRY(lock, take_lock(layout));
  }
  return lock;
}

// No install came as far as its record or a service: what is there was pulled, built or added beforehand.
bool never_installed(const Found& found) {
  std::error_code error;
  return !found.state && service_names(found).empty() && !fs::exists(found.layout.state_file(), error) &&
         !fs::exists(found.layout.last_state_file(), error) && !fs::exists(found.layout.config, error);
}

bool holds_data(const host::Layout& layout) {
  return std::ranges::any_of(
      std::array{layout.images(), layout.volumes(), layout.vms(), layout.simulated_tee()},
      [](const fs::path& directory) {
        std::error_code error;
        return fs::directory_iterator(directory, error) != fs::directory_iterator();
      });
}

bool anything_there(const Found& found) {
  std::error_code error;
  return found.state || !found.journal.empty() || fs::exists(found.layout.state, error) ||
         fs::exists(found.layout.config, error);
}

Result<int> destroy(const Flags& flags, const cli::Streams& streams) {
  cli::Progress progress(streams);
  DS_CHECK(need_root("destroy"));
  DS_TRY(const auto layout, host::Layout::make(flags.prefix));
  DS_CHECK(host::check_no_file_in_the_way(layout));
  DS_CHECK(host::discard_unfinished_state_directory(layout));
  // First the lock, then the look: an install that ends in between has made things that are to go.
  DS_TRY(const auto lock, lock_if_there(layout));
  DS_TRY(const auto found, find(flags, layout, progress));
  if (!anything_there(found)) {
    streams.out << "nothing is installed " << (flags.prefix ? "below " + *flags.prefix : "here") << '\n';
    return cli::k_exit_ok;
  }
  std::error_code error;
  if (!lock && fs::exists(layout.state, error)) {
    return base::fail(Code::locked, "another dstackup began to install just now",
                      "wait until it has finished and try again");
  }
  const bool never = never_installed(found);
  const auto where = flags.prefix ? "below " + *flags.prefix : std::string("here");
  DS_CHECK(stop_everything(found, progress));
  const auto tell_kept = [&](const host::Removal& removal) {
    for (const auto& kept : removal.kept) {
      progress.warn("kept " + kept + ", which is not ours");
    }
  };
  DS_TRY(const auto run_time, host::remove_run_time(found.layout));
  if (!flags.purge) {
    tell_kept(run_time);
  }
  if (!flags.purge && !never) {
    streams.out << "taken down; kept in " << found.layout.config.string() << " and "
                << found.layout.state.string()
                << ": token, allow-list, images, VMs with their data, the KMS's keys\n"
                << "  'dstackup install' brings it and its VMs back, 'dstackup destroy --purge' removes it "
                   "for good\n";
    return cli::k_exit_ok;
  }
  if (!flags.purge && holds_data(layout)) {
    streams.out << "nothing is installed " << where << "; images and volumes are kept in "
                << layout.state.string() << ", 'dstackup destroy --purge' removes them\n";
    return cli::k_exit_ok;
  }
  DS_TRY(const auto removal, host::purge(found.layout, found.journal));
  for (const auto& path : removal.data) {
    progress.ok("removed " + path);
  }
  tell_kept(removal);
  if (never && !flags.purge) {
    streams.out << "nothing is installed " << where << "; empty directories were removed\n";
    return cli::k_exit_ok;
  }
  streams.out << "taken down and removed in " << cli::format_seconds(progress.elapsed()) << '\n';
  return cli::k_exit_ok;
}

}  // namespace

void add_destroy(cli::Command& program, const cli::Streams& streams) {
  auto flags = std::make_shared<Flags>();
  auto& verb = program.verb("destroy", "stop everything and take it down");
  verb.option("--prefix", flags->prefix, "the installation below this directory");
  verb.option("--instance", flags->instance, "suffix of the services' names", "the installed one");
  verb.flag("--purge", flags->purge, "remove all data too: images, VMs, keys");
  verb.examples("dstackup destroy\ndstackup destroy --purge --prefix /opt/dstack-test");
  verb.action([flags, &streams] { return report(streams, false, [&] { return destroy(*flags, streams); }); });
}

}  // namespace dstack::dstackup
