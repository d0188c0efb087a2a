// Where an installation has or had copies of programs and commands, by its journal, and taking them away:
// --libexec-dir and --bin-dir may be anywhere, and may change.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/journal.h"
#include "host/layout.h"

namespace dstack::host {

struct ProgramPlaces {
  std::vector<fs::path> stores;    // directories of ProgramStores
  std::vector<fs::path> commands;  // links to programs in them
};
ProgramPlaces program_places(const std::vector<JournalEntry>& journal);

// What is there and is this installation's: not another's store, not another's command of that name.
ProgramPlaces ours_of(const ProgramPlaces& places, const Layout& layout);

// Removes from `places`, which are ours, what an installation puts there. What else lies among it stays, and
// is added to `kept`.
base::Result<> remove_programs(const ProgramPlaces& places, std::vector<std::string>& kept);

// Is `path` a command, or what a store has at its top?
bool is_part(const ProgramPlaces& places, const fs::path& path);
// Is `path` one of these places, or a parent of one?
bool leads_to(const ProgramPlaces& places, const fs::path& path);

}  // namespace dstack::host
