// What an installation puts into the directories that it keeps for itself. Somebody else's files in them are
// not ours to remove.
#pragma once

#include <filesystem>
#include <string>

#include "host/layout.h"

namespace dstack::host {

// Is `entry`, which lies right below `tree`, one of those that we put there? A guest image, a volume or a VM
// is known by what it is, everything else by its name. What lies inside of such an entry goes with it. In the
// build caches everything is ours.
bool is_our_entry(const Layout& layout, const fs::path& tree, const fs::path& entry);

// Removes such an entry. A directory gets a name by which it is known as ours first, since it may be known by
// something in it.
base::Result<> remove_our_entry(const fs::path& entry);

}  // namespace dstack::host
