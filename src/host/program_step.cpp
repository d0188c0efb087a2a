#include "host/program_step.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/format.h"
#include "base/fs.h"
#include "host/upgrade.h"

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

// Those that can be ours: nothing of another's is in their place.
std::vector<CommandLink> command_links(const InstallPlan& plan) {
  std::vector<CommandLink> out;
  for (const auto* name : k_commands) {
    const CommandLink link{plan.layout.bin / name, plan.layout.libexec / "current" / name};
    std::error_code error;
    const bool offered = std::ranges::find(plan.programs->names, name) != plan.programs->names.end();
    const bool foreign = is_there(link.path) && fs::read_symlink(link.path, error) != link.target;
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
  if (is_there(link.path)) {
    return false;
  }
  DS_CHECK(base::make_dirs(link.path.parent_path()));
  if (::symlink(link.target.c_str(), link.path.c_str()) != 0) {
    return base::fail_errno(Code::io, "cannot create " + link.path.string(), errno);
  }
  return true;
}

}  // namespace

ProgramChoice choose_programs(const Layout& layout, const std::optional<std::string>& bin_dir,
                              const fs::path& own_directory) {
  const ProgramStore store(layout);
  ProgramChoice out;
  // Without a record nothing is installed, at most taken down: then this is a new beginning.
  if (!bin_dir && is_there(layout.state_file())) {
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
  out.directory = bin_dir ? fs::absolute(*bin_dir, error)
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
  const auto links = command_links(plan);
  const auto pending_file = plan.layout.pending_upgrade();
  InstallStep step{
      "programs",
      base::format("the services run their own copy, {}", plan.vmm_program.parent_path().string()),
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
  step.pending = [set = *plan.programs, store, links]() -> std::string {
    if (store.current() && store.current() != set.id) {
      return "change";
    }
    bool complete = store.current().has_value();
    for (const auto& link : links) {
      complete &= is_there(link.path);
    }
    return complete ? "" : "make";
  };
  step.apply = [set = *plan.programs, store, links, pending_file, start = plan.start]() -> Result<bool> {
    bool changed = false;
    if (set.directory != store.directory(set.id)) {
      DS_TRY(changed, store.add(set));
    }
    const auto before = store.current();
    if (before != set.id) {
      changed = true;
      DS_TRY(const auto pending, load_pending_upgrade(pending_file));
      const auto known_good = pending ? pending->from : before.value_or("");
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

}  // namespace dstack::host
