#include "host/program_step.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/format.h"
#include "base/fs.h"
#include "host/program_places.h"
#include "host/upgrade.h"
#include "host/vm_record.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Kind = JournalEntry::Kind;

namespace {

constexpr std::array k_commands = {"dstackup", "dstack"};
constexpr std::array k_names = {"dstackup", "dstack", "dstack-auth", "dstack-vmm"};

bool is_there(const fs::path& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0;
}

ProgramSet set_in_store(const ProgramStore& store, const std::string& id) {
  ProgramSet out{store.directory(id), id, {}};
  for (const auto* name : k_names) {
    if (::access((out.directory / name).c_str(), X_OK) == 0) {
      out.names.emplace_back(name);
    }
  }
  return out;
}

// By their sizes: this is for a hint only, and hashing them takes longer than
// all else on a converged host.
bool look_different(const fs::path& a, const fs::path& b) {
  for (const auto* name : {"dstack-auth", "dstack-vmm"}) {
    std::error_code error;
    const auto first = fs::file_size(a / name, error);
    const auto second = error ? first : fs::file_size(b / name, error);
    if (!error && first != second) {
      return true;
    }
  }
  return false;
}

struct CommandLink {
  fs::path path, target;
};

bool points_to(const CommandLink& link) {
  std::error_code error;
  return fs::read_symlink(link.path, error) == link.target;
}

ProgramPlaces places_of(const InstallPlan& plan) {
  const auto journal = Journal::read(plan.layout.journal());
  return ours_of(program_places(journal.value_or(std::vector<JournalEntry>())), plan.layout);
}

// Those that can be ours: nothing of another's is in their place.
std::vector<CommandLink> command_links(const InstallPlan& plan, const ProgramPlaces& ours) {
  std::vector<CommandLink> out;
  for (const auto* name : k_commands) {
    const CommandLink link{plan.layout.bin / name, plan.layout.libexec / "current" / name};
    const bool offered = std::ranges::find(plan.programs->names, name) != plan.programs->names.end();
    const bool foreign = is_there(link.path) && !points_to(link) &&
                         std::ranges::find(ours.commands, link.path) == ours.commands.end();
    if (offered && !foreign) {
      out.push_back(link);
    }
  }
  return out;
}

void add_missing(const fs::path& path, std::vector<JournalEntry>& out) {
  std::vector<JournalEntry> chain;
  for (fs::path at = path; !is_there(at) && at.has_relative_path(); at = at.parent_path()) {
    chain.insert(chain.begin(), JournalEntry{Kind::directory, at.string(), "programs"});
  }
  out.insert(out.end(), chain.begin(), chain.end());
}

Result<bool> make_link(const CommandLink& link) {
  if (points_to(link)) {
    return false;
  }
  DS_CHECK(base::make_dirs(link.path.parent_path()));
  // What may be there is a link of ours to programs in another place.
  DS_CHECK(base::remove_file(link.path));
  if (::symlink(link.target.c_str(), link.path.c_str()) != 0) {
    return base::fail_errno(Code::io, "cannot create " + link.path.string(), errno);
  }
  return true;
}

}  // namespace

ProgramChoice choose_programs(const Layout& layout, const std::optional<std::string>& from,
                              const fs::path& own_directory, const fs::path& installed) {
  const ProgramStore store(layout);
  ProgramChoice out;
  // Without a record nothing is installed, at most taken down: then this is a new beginning.
  if (!from && is_there(layout.state_file())) {
    auto id = store.current();
    if (const auto pending = load_pending_upgrade(layout.pending_upgrade()); pending && *pending) {
      id = (*pending)->from.empty() ? std::nullopt : std::optional((*pending)->from);
      if (id && id != store.current()) {
        out.note = "a change of programs was cut off or failed: those of before are used";
      }
    }
    std::error_code error;
    if (id && fs::is_directory(store.directory(*id), error)) {
      out.set = set_in_store(store, *id);
      out.directory = out.set->directory;
      if (out.note.empty() && own_directory != out.directory &&
          look_different(own_directory, out.directory)) {
        out.note = base::format(
            "the installation keeps its programs; those in {} are "
            "others: 'dstackup upgrade' changes to them",
            own_directory.string());
      }
      return out;
    }
  }
  std::error_code error;
  // With another --libexec-dir they move there. In this store, they are those that did not come up.
  const bool move = !from && !installed.empty() && installed.parent_path() != store.versions() &&
                    ::access((installed / "dstack-vmm").c_str(), X_OK) == 0;
  out.directory = from                                                          ? fs::absolute(*from, error)
                  : move                                                        ? installed
                  : ::access((own_directory / "dstack-vmm").c_str(), X_OK) == 0 ? own_directory
                                                                                : layout.libexec;
  if (auto found = inspect_programs(out.directory)) {
    out.set = std::move(*found);
  }
  return out;
}

InstallStep programs_step(InstallContext& context) {
  const auto& plan = context.plan;
  const ProgramStore store(plan.layout);
  const auto links = command_links(plan, places_of(plan));
  const auto pending_file = plan.layout.pending_upgrade();
  InstallStep step{
      "programs",
      base::format("the installation's own copies, {}", store.directory(plan.programs->id).string()),
      {},
      {},
      {}};
  add_missing(store.root(), step.creates);
  step.creates.push_back({Kind::tree, store.versions().string(), "programs"});
  step.creates.push_back({Kind::file, (store.root() / "current").string(), "programs"});
  step.creates.push_back({Kind::file, (store.root() / "previous").string(), "programs"});
  if (!links.empty()) {
    add_missing(plan.layout.bin, step.creates);
  }
  for (const auto& link : links) {
    step.creates.push_back({Kind::file, link.path.string(), "command"});
  }
  step.creates.push_back({Kind::file, pending_file.string(), "programs"});
  step.pending = [set = *plan.programs, store, links, state = plan.layout.state]() -> std::string {
    if (store.current() && store.current() != set.id) {
      return "change";
    }
    bool complete = store.current().has_value() && store.owner() == state;
    for (const auto& link : links) {
      complete &= points_to(link);
    }
    return complete ? "" : "make";
  };
  step.apply = [set = *plan.programs, store, links, pending_file, state = plan.layout.state,
                start = plan.start]() -> Result<bool> {
    DS_TRY(bool changed, store.claim(state));
    if (set.directory != store.directory(set.id)) {
      DS_TRY(const bool added, store.add(set));
      changed |= added;
    }
    const auto before = store.current();
    if (before != set.id) {
      changed = true;
      DS_TRY(const auto pending, load_pending_upgrade(pending_file));
      // Programs that move from another store of ours ran well there.
      const bool moved = !before && set.directory.filename() == set.id;
      const auto known_good = pending ? pending->from : moved ? set.id : before.value_or("");
      if (known_good != set.id && start) {
        DS_CHECK(save_pending_upgrade(pending_file, {known_good, set.id}));
      } else if (known_good != set.id && !known_good.empty()) {
        DS_CHECK(store.set_previous(known_good));
      }
      DS_CHECK(store.set_current(set.id));
      if (!start) {
        // Nothing is tried now that could fail: the next install is to take these, not those of before.
        DS_CHECK(base::remove_file(pending_file));
      }
    }
    for (const auto& link : links) {
      DS_TRY(const bool made, make_link(link));
      changed |= made;
    }
    return changed;
  };
  return step;
}

InstallStep programs_well_step(InstallContext& context) {
  const ProgramStore store(context.plan.layout);
  const auto pending_file = context.plan.layout.pending_upgrade();
  InstallStep step{"programs are well", "what runs now is what a failed upgrade goes back to", {}, {}, {}};
  step.pending = [store, pending_file, id = context.plan.programs->id] {
    return std::string(is_there(pending_file) || store.current() != id ? "note" : "");
  };
  step.apply = [store, pending_file]() -> Result<bool> {
    DS_TRY(const auto pending, load_pending_upgrade(pending_file));
    if (!pending) {
      return false;
    }
    if (!pending->from.empty() && pending->from != store.current()) {
      DS_CHECK(store.set_previous(pending->from));
    }
    DS_CHECK(base::remove_file(pending_file));
    DS_CHECK(store.prune(/*old_sets=*/false));
    return true;
  };
  return step;
}

std::optional<InstallStep> former_programs_step(InstallContext& context) {
  const auto& plan = context.plan;
  auto former = places_of(plan);
  if (plan.programs) {
    for (const auto& link : command_links(plan, former)) {
      std::erase(former.commands, link.path);
    }
    // One to a program that only an earlier set has: a rollback may bring it back.
    std::erase_if(former.commands, [&](const fs::path& path) {
      return points_to({path, plan.layout.libexec / "current" / path.filename()});
    });
    std::erase(former.stores, plan.layout.libexec);
  }
  std::error_code error;
  const auto self = fs::read_symlink("/proc/self/exe", error).parent_path().parent_path().parent_path();
  const bool only_copy = !plan.programs && std::ranges::find(former.stores, self) != former.stores.end();
  if ((former.stores.empty() && former.commands.empty()) || only_copy) {
    return std::nullopt;
  }
  const auto vms = plan.layout.vms();
  InstallStep step{"programs of before", "in places that the installation uses no more", {}, {}, {}};
  // The VM manager's name is in the units of the VMs that it started.
  step.pending = [vms] { return std::string(live_vms(vms).empty() ? "remove" : ""); };
  step.apply = [vms, former, journal = plan.layout.journal()]() -> Result<bool> {
    if (!live_vms(vms).empty()) {
      return false;
    }
    DS_TRY(const auto entries, Journal::read(journal));
    std::vector<std::string> kept;
    DS_CHECK(remove_programs(former, kept));
    // Only directories that were made for it, and only empty ones.
    for (auto it = entries.rbegin(); it != entries.rend(); ++it) {
      if (it->kind == Kind::directory && leads_to(former, it->name)) {
        ::rmdir(it->name.c_str());
      }
    }
    return true;
  };
  return step;
}

}  // namespace dstack::host
