#include "host/program_places.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/fs.h"
#include "host/programs.h"

namespace dstack::host {

using base::Result;
using Kind = JournalEntry::Kind;

namespace {

fs::path store_of_command(const fs::path& link) {
  std::error_code error;
  const auto target = fs::read_symlink(link, error);
  const bool good = !error && target.filename() == link.filename() &&
                    target.parent_path().filename() == "current" && target.is_absolute();
  return good ? target.parent_path().parent_path() : fs::path();
}

Result<> remove_store(const ProgramStore& store, std::vector<std::string>& kept) {
  for (const char* link : {"current", "previous"}) {
    std::error_code error;
    const auto target = fs::read_symlink(store.root() / link, error);
    if (!error && target.parent_path() == "versions" && is_program_set_id(target.filename().string())) {
      DS_CHECK(base::remove_file(store.root() / link));
    }
  }
  std::error_code error;
  std::vector<fs::path> sets;
  for (fs::directory_iterator it(store.versions(), error), end; !error && it != end; it.increment(error)) {
    if (store.is_part(it->path().filename().string())) {
      sets.push_back(it->path());
    } else if (it->path() != store.owner_link()) {
      kept.push_back(it->path().string());
    }
  }
  for (const auto& set : sets) {
    DS_CHECK(base::remove_tree(set));
  }
  // Last, so that a crash leaves a store that is known to be ours, or an empty directory.
  DS_CHECK(base::remove_file(store.owner_link()));
  if (::rmdir(store.versions().c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY && errno != ENOTDIR) {
    return base::fail_errno(base::Code::io, "cannot remove the directory " + store.versions().string(),
                            errno);
  }
  return {};
}

}  // namespace

ProgramPlaces program_places(const std::vector<JournalEntry>& journal) {
  ProgramPlaces out;
  for (const auto& entry : journal) {
    const fs::path path(entry.name);
    if (entry.kind == Kind::tree && path.filename() == "versions") {
      out.stores.push_back(path.parent_path());
    } else if (entry.kind == Kind::file && (path.filename() == "dstackup" || path.filename() == "dstack")) {
      out.commands.push_back(path);
    }
  }
  return out;
}

ProgramPlaces ours_of(const ProgramPlaces& places, const Layout& layout) {
  ProgramPlaces out;
  for (const auto& root : places.stores) {
    const ProgramStore store(root);
    // One without an owner is the work of an older dstackup, or of a crash in the middle of removing it.
    if (store.owner().value_or(layout.state) == layout.state) {
      out.stores.push_back(root);
    }
  }
  for (const auto& command : places.commands) {
    if (std::ranges::find(out.stores, store_of_command(command)) != out.stores.end()) {
      out.commands.push_back(command);
    }
  }
  std::error_code error;
  std::erase_if(out.stores, [&](const fs::path& root) {
    return !fs::is_directory(ProgramStore(root).versions(), error);
  });
  return out;
}

Result<> remove_programs(const ProgramPlaces& places, std::vector<std::string>& kept) {
  for (const auto& command : places.commands) {
    DS_CHECK(base::remove_file(command));
  }
  for (const auto& root : places.stores) {
    DS_CHECK(remove_store(ProgramStore(root), kept));
  }
  return {};
}

bool is_part(const ProgramPlaces& places, const fs::path& path) {
  const auto name = path.filename();
  return std::ranges::find(places.commands, path) != places.commands.end() ||
         ((name == "versions" || name == "current" || name == "previous") &&
          std::ranges::find(places.stores, path.parent_path()) != places.stores.end());
}

bool leads_to(const ProgramPlaces& places, const fs::path& path) {
  const auto holds = [&](const fs::path& place) { return lies_in(place, path.lexically_normal()); };
  return std::ranges::any_of(places.stores, holds) || std::ranges::any_of(places.commands, holds);
}

}  // namespace dstack::host
