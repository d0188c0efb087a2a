// What somebody who helps from afar needs to see of an installation, as one archive without secrets.
#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/layout.h"

namespace dstack::host {

struct SupportItem {
  std::string name;  // path in the archive
  std::string text;  // redacted
};

// Configuration, record, journal, logs, VM records and facts about the host. Whatever cannot be read is named
// in "problems.txt" and holds nothing up: it is for broken installations. App-compose files, environments and
// disks are the user's and stay out. `extra` is added, and redacted like the rest.
std::vector<SupportItem> collect_support(const Layout& layout, const std::string& instance,
                                         std::vector<SupportItem> extra = {},
                                         const std::filesystem::path& proc = "/proc");

// A gzipped tar, mode 0600, with everything below `directory`.
base::Result<> write_support_archive(const std::filesystem::path& path, const std::string& directory,
                                     const std::vector<SupportItem>& items, std::time_t now);

}  // namespace dstack::host
