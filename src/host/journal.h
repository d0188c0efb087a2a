// The intent journal, <state>/journal: one JSON line per thing that install is about to create, written and
// fsynced BEFORE the thing is made. destroy walks it backwards and removes what it names and nothing else.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace dstack::host {

struct JournalEntry {
  enum class Kind {
    directory,   // removed when empty
    tree,        // removed with all it holds; everything in it is ours
    file,        // unlinked
    service,     // name of a unit or supervised service
    unit_file,   // unlinked, then the manager is reloaded
    supervisor,  // the socket of a supervisor daemon
    vm,          // id (or name, before the id is known) of a VM made through the VMM
    cgroup,      // cgroup v2 directory
    compose,     // docker compose project
  };
  Kind kind = Kind::file;
  std::string name;  // path or name
  std::string note;  // why, for people

  bool operator==(const JournalEntry&) const = default;
};
std::string_view to_string(JournalEntry::Kind kind);

class Journal {
 public:
  // Opens or creates. A torn last line (a crash while it was written: its effect never happened) is cut off;
  // any other malformed line is Code::journal_corrupt.
  static base::Result<Journal> open(const std::filesystem::path& path);
  // Entries of an existing journal, oldest first; an absent file has none. Changes nothing.
  static base::Result<std::vector<JournalEntry>> read(const std::filesystem::path& path);
  static std::string line(const JournalEntry& entry);

  // Durable on return. An entry that is already there is not written again.
  base::Result<> record(JournalEntry entry);
  const std::vector<JournalEntry>& entries() const { return m_entries; }

 private:
  Journal(base::Fd fd, std::filesystem::path path, std::vector<JournalEntry> entries)
      : m_fd(std::move(fd)), m_path(std::move(path)), m_entries(std::move(entries)) {}

  base::Fd m_fd;
  std::filesystem::path m_path;
  std::vector<JournalEntry> m_entries;
};

}  // namespace dstack::host
