// Taking files of an installation away: what the journal names and what has a fixed place in the layout,
// nothing else.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "host/journal.h"
#include "host/layout.h"

namespace dstack::host {

struct Removal {
  std::vector<std::string> kept;  // paths that are in the way of a removal: foreign files
  std::vector<std::string> data;  // guest images, volumes and VMs that went
};

// Without --purge: run-time files go; the state file becomes last_state_file(), a corrupt one is set aside.
base::Result<Removal> remove_run_time(const Layout& layout);

// --purge, after everything has stopped: files, trees and directories of the journal, newest first, then what
// has a fixed place; the journal goes last, so that an interrupted purge can be repeated. Of a tree goes what
// is_our_entry() knows. Directories that hold something else stay and are reported.
base::Result<Removal> purge(const Layout& layout, const std::vector<JournalEntry>& journal);

}  // namespace dstack::host
