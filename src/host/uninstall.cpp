#include "host/uninstall.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "base/format.h"
#include "base/fs.h"
#include "host/state.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Kind = JournalEntry::Kind;

namespace {

bool is_there(const fs::path& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0;
}

// Is `path` a directory of this layout or in one, so that a damaged journal cannot make us remove anything
// else?
bool belongs(const Layout& layout, const fs::path& path) {
  const auto below = [&](const fs::path& directory) {
    const auto relative = path.lexically_normal().lexically_relative(directory);
    return !relative.empty() && *relative.begin() != "..";
  };
  if (layout.prefix) {
    return below(*layout.prefix);
  }
  return below(layout.config) || below(layout.state) || below(layout.cache) || below(layout.run) ||
         below(layout.libexec);
}

// A parent of ours that was made for us, such as /usr/local/libexec. It goes only when it is empty.
bool is_parent(const Layout& layout, const fs::path& path) {
  const auto holds = [&](const fs::path& directory) {
    const auto relative = directory.lexically_relative(path.lexically_normal());
    return !relative.empty() && *relative.begin() != "..";
  };
  return holds(layout.config) || holds(layout.state) || holds(layout.cache) || holds(layout.run) ||
         holds(layout.libexec) || holds(layout.bin);
}

// A name of one of our programs in the directory of commands, still ours.
bool is_command_link(const Layout& layout, const fs::path& path) {
  std::error_code error;
  const auto target = fs::read_symlink(path, error);
  return !error && path.parent_path() == layout.bin && target.parent_path() == layout.libexec / "current";
}

// Temporary files of atomic writes that a crash interrupted.
Result<> remove_temporary_files(const fs::path& directory) {
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const auto name = it->path().filename().string();
    if (name.starts_with('.') && name.ends_with(".tmp") && it->is_regular_file(error)) {
      DS_CHECK(base::remove_file(it->path()));
    }
  }
  return {};
}

std::string first_entry(const fs::path& directory) {
  std::error_code error;
  const fs::directory_iterator it(directory, error);
  return error || it == fs::directory_iterator() ? std::string() : it->path().filename().string();
}

Result<> remove_directory(const fs::path& path, Removal& out) {
  if (::rmdir(path.c_str()) == 0 || errno == ENOENT) {
    return {};
  }
  if (errno == ENOTEMPTY || errno == EEXIST) {
    out.kept.push_back(base::format("{} holds {}", path.string(), first_entry(path)));
    return {};
  }
  if (errno == EBUSY || errno == ENOTDIR) {
    out.kept.push_back(path.string());
    return {};
  }
  return base::fail_errno(Code::io, "cannot remove the directory " + path.string(), errno);
}

// An empty parent inside the prefix only exists for us; the prefix itself only when the journal says so.
void remove_empty_parents(const Layout& layout) {
  if (!layout.prefix) {
    return;
  }
  for (const auto& leaf : {layout.config, layout.state, layout.cache, layout.run}) {
    for (fs::path at = leaf.parent_path(); at != *layout.prefix && at.has_relative_path();
         at = at.parent_path()) {
      if (::rmdir(at.c_str()) != 0) {
        break;
      }
    }
  }
}

}  // namespace

Result<> remove_run_time(const Layout& layout) {
  DS_CHECK(base::remove_tree(layout.run));
  if (!is_there(layout.state_file())) {
    return {};
  }
  const bool usable = load_state(layout.state_file()).has_value();
  const fs::path target =
      usable ? layout.last_state_file() : fs::path(layout.state_file().string() + ".corrupt");
  if (::rename(layout.state_file().c_str(), target.c_str()) != 0) {
    return base::fail_errno(Code::io, "cannot set aside " + layout.state_file().string(), errno);
  }
  return {};
}

Result<Removal> purge(const Layout& layout, const std::vector<JournalEntry>& journal) {
  Removal out;
  for (const auto& tree : {layout.run, layout.cache, layout.vms(), layout.logs(), layout.images(),
                           layout.volumes(), layout.simulated_tee()}) {
    DS_CHECK(base::remove_tree(tree));
  }
  for (const auto& file : {layout.token_file(), layout.vmm_toml(), layout.kms_toml(), layout.kms_ca(),
                           layout.allowlist(), fs::path(layout.allowlist().string() + ".lock"),
                           layout.state_file(), fs::path(layout.state_file().string() + ".corrupt"),
                           layout.last_state_file(), layout.install_lock()}) {
    DS_CHECK(base::remove_file(file));
  }
  DS_CHECK(remove_temporary_files(layout.config));
  DS_CHECK(remove_temporary_files(layout.state));
  std::vector<fs::path> directories;  // innermost first
  for (auto it = journal.rbegin(); it != journal.rend(); ++it) {
    const fs::path path(it->name);
    if (it->kind == Kind::directory) {
      if (belongs(layout, path) || is_parent(layout, path)) {
        directories.push_back(path);
      }
      continue;
    }
    if (path.parent_path() == layout.bin ? !is_command_link(layout, path) : !belongs(layout, path)) {
      continue;
    }
    if (it->kind == Kind::tree) {
      DS_CHECK(base::remove_tree(path));
    } else if (it->kind == Kind::file) {
      DS_CHECK(base::remove_file(path));
    }
  }
  // The journal's own directories must outlive it, so it goes when only they are left.
  DS_CHECK(remove_directory(layout.config, out));
  DS_CHECK(base::remove_file(layout.journal()));
  DS_CHECK(remove_directory(layout.state, out));
  remove_empty_parents(layout);
  for (const auto& directory : directories) {
    if (is_there(directory)) {
      DS_CHECK(remove_directory(directory, out));
    }
  }
  return out;
}

}  // namespace dstack::host
