#include "host/uninstall.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/format.h"
#include "base/fs.h"
#include "host/our_trees.h"
#include "host/program_places.h"
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
  if (layout.prefix) {
    return lies_in(path, *layout.prefix);
  }
  return std::ranges::any_of(
      std::array{layout.config, layout.state, layout.cache, layout.run, layout.libexec},
      [&](const fs::path& directory) { return lies_in(path, directory); });
}

// A parent of ours that was made for us, such as /usr/local/libexec. It goes only when it is empty.
bool is_parent(const Layout& layout, const fs::path& path) {
  return std::ranges::any_of(
      std::array{layout.config, layout.state, layout.cache, layout.run, layout.libexec, layout.bin},
      [&](const fs::path& directory) { return lies_in(directory, path.lexically_normal()); });
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

void keep(const fs::path& path, Removal& out) {
  if (std::ranges::find(out.kept, path.string()) == out.kept.end()) {
    out.kept.push_back(path.string());
  }
}

bool holds_kept(const fs::path& directory, const Removal& out) {
  return std::ranges::any_of(
      out.kept, [&](const std::string& kept) { return kept.starts_with(directory.string() + "/"); });
}

Result<> remove_directory(const fs::path& path, Removal& out) {
  if (::rmdir(path.c_str()) == 0 || errno == ENOENT) {
    return {};
  }
  const int problem = errno;
  if (problem == ENOTEMPTY || problem == EEXIST) {
    std::error_code error;
    for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
      if (!holds_kept(it->path(), out)) {
        keep(it->path(), out);
      }
    }
    return {};
  }
  if (problem == EBUSY || problem == ENOTDIR) {
    keep(path, out);
    return {};
  }
  return base::fail_errno(Code::io, "cannot remove the directory " + path.string(), problem);
}

bool is_data(const Layout& layout, const fs::path& tree, const fs::path& entry) {
  const auto name = entry.filename().string();
  return !name.starts_with('.') && name != layout.volume_index().filename() &&
         (tree == layout.images() || tree == layout.volumes() || tree == layout.vms());
}

Result<> remove_our_tree(const Layout& layout, const fs::path& tree, Removal& out) {
  std::error_code error;
  if (fs::symlink_status(tree, error).type() != fs::file_type::directory) {
    return base::remove_tree(tree);
  }
  std::vector<fs::path> ours;
  for (fs::directory_iterator it(tree, error), end; !error && it != end; it.increment(error)) {
    is_our_entry(layout, tree, it->path()) ? ours.push_back(it->path()) : keep(it->path(), out);
  }
  for (const auto& entry : ours) {
    DS_CHECK(remove_our_entry(entry));
    if (is_data(layout, tree, entry)) {
      out.data.push_back(entry.string());
    }
  }
  return remove_directory(tree, out);
}

// The outermost directory around the state directory that was made for us, if nothing is left in it but the
// journal and empty directories of ours.
fs::path emptied_root(const Layout& layout, const std::vector<fs::path>& directories) {
  fs::path root;
  for (const auto& directory : directories) {
    if (lies_in(layout.state, directory) &&
        (root.empty() || directory.string().size() < root.string().size())) {
      root = directory;
    }
  }
  std::error_code error;
  if (root.empty() || !fs::is_directory(fs::symlink_status(root, error))) {
    return {};
  }
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    const bool ours = it->path() == layout.journal() || it->path() == layout.state ||
                      (it->symlink_status(error).type() == fs::file_type::directory &&
                       std::ranges::find(directories, it->path()) != directories.end());
    if (!ours) {
      return {};
    }
  }
  return error ? fs::path() : root;
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

Result<Removal> remove_run_time(const Layout& layout) {
  Removal out;
  DS_CHECK(remove_our_tree(layout, layout.run, out));
  if (!is_there(layout.state_file())) {
    return out;
  }
  const bool usable = load_state(layout.state_file()).has_value();
  const fs::path target =
      usable ? layout.last_state_file() : fs::path(layout.state_file().string() + ".corrupt");
  if (::rename(layout.state_file().c_str(), target.c_str()) != 0) {
    return base::fail_errno(Code::io, "cannot set aside " + layout.state_file().string(), errno);
  }
  return out;
}

Result<Removal> purge(const Layout& layout, const std::vector<JournalEntry>& journal) {
  Removal out;
  for (const auto& tree : {layout.run, layout.cache, layout.vms(), layout.logs(), layout.images(),
                           layout.volumes(), layout.simulated_tee()}) {
    DS_CHECK(remove_our_tree(layout, tree, out));
  }
  for (const auto& file : {layout.token_file(), layout.vmm_toml(), layout.kms_toml(), layout.kms_ca(),
                           layout.allowlist(), fs::path(layout.allowlist().string() + ".lock"),
                           layout.state_file(), fs::path(layout.state_file().string() + ".corrupt"),
                           layout.last_state_file(), layout.install_lock()}) {
    DS_CHECK(base::remove_file(file));
  }
  DS_CHECK(remove_temporary_files(layout.config));
  DS_CHECK(remove_temporary_files(layout.state));
  const auto places = program_places(journal);
  DS_CHECK(remove_programs(ours_of(places, layout), out.kept));
  std::vector<fs::path> directories;  // innermost first
  for (auto it = journal.rbegin(); it != journal.rend(); ++it) {
    const fs::path path(it->name);
    if (it->kind == Kind::directory) {
      if (belongs(layout, path) || is_parent(layout, path) || leads_to(places, path)) {
        directories.push_back(path);
      }
      continue;
    }
    if (is_part(places, path) || !belongs(layout, path)) {
      continue;
    }
    if (it->kind == Kind::tree) {
      DS_CHECK(remove_our_tree(layout, path, out));
    } else if (it->kind == Kind::file) {
      DS_CHECK(base::remove_file(path));
    }
  }
  DS_CHECK(remove_directory(layout.config, out));
  for (const auto& directory : directories) {
    // What the journal lies in is not empty yet, and no news.
    if (is_there(directory) && !lies_in(layout.state, directory)) {
      DS_CHECK(remove_directory(directory, out));
    }
  }
  // The journal's own directories must not outlive it, or nobody would know any more that they are ours.
  if (const auto root = emptied_root(layout, directories); !root.empty()) {
    if (remove_state_root(root)) {
      return out;
    }
    // A mount point, perhaps: then one by one.
  }
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
