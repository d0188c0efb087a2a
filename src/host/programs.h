// The programs that an installation runs: its own copies, side by side in <libexec>/versions/<id>/, so that a
// changed checkout does not change a running host. <libexec>/current says which ones run, <libexec>/previous
// which ran before.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/layout.h"

namespace dstack::host {

struct ProgramSet {
  std::filesystem::path directory;
  std::string id;                  // 16 hex digits, of what the programs are
  std::vector<std::string> names;  // of those that there are
};

// The programs in a directory: dstack-auth and dstack-vmm must be there, dstackup and dstack may.
// Code::programs says what is missing.
base::Result<ProgramSet> inspect_programs(const std::filesystem::path& directory);
// What a program answers to --version. Code::programs when it does not run here or answers nonsense.
base::Result<std::string> program_version(const std::filesystem::path& program);
// Each runs on this machine and answers --version with the same; the result is that version.
base::Result<std::string> check_programs_run(const ProgramSet& programs);

class ProgramStore {
 public:
  explicit ProgramStore(const Layout& layout) : m_root(layout.libexec) {}
  explicit ProgramStore(std::filesystem::path root) : m_root(std::move(root)) {}

  const std::filesystem::path& root() const { return m_root; }
  std::filesystem::path versions() const { return m_root / "versions"; }
  std::filesystem::path directory(const std::string& id) const { return versions() / id; }
  // nullopt when there is none, or what it names is gone.
  std::optional<std::string> current() const { return target("current"); }
  std::optional<std::string> previous() const { return target("previous"); }

  // Says whose the store is: the installation with this state directory. Code::layout when another one has
  // it.
  base::Result<bool> claim(const std::filesystem::path& state) const;
  std::optional<std::filesystem::path> owner() const;
  std::filesystem::path owner_link() const { return versions() / ".of"; }
  // Is it the name of a set below versions(), finished or not?
  static bool is_part(const std::string& name);

  // Copies the set to its place, durably and in one step; a set that is there is checked and left alone. True
  // when it was new.
  base::Result<bool> add(const ProgramSet& programs) const;
  // In one step; the set must be there.
  base::Result<> set_current(const std::string& id) const { return point("current", id); }
  base::Result<> set_previous(const std::string& id) const { return point("previous", id); }
  // Removes what was begun and not finished, and with `old_sets` those sets that are neither current nor
  // previous.
  base::Result<> prune(bool old_sets) const;

 private:
  std::optional<std::string> target(const char* link) const;
  base::Result<> point(const char* link, const std::string& id) const;

  std::filesystem::path m_root;
};

// The set of the store that a process was started from, going by its command line; "" when it is none.
std::string set_of_process(const ProgramStore& store, pid_t pid);

// Is it what ids look like?
bool is_program_set_id(const std::string& text);

}  // namespace dstack::host
