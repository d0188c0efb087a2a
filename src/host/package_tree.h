// File trees made of Debian packages with mmdebstrap, kept in a cache.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::host {

struct PackageTreeRequest {
  std::vector<std::string> packages;
  std::filesystem::path cache;  // trees are kept in cache/trees/<key>
  std::string mirror;           // empty = from this machine's apt configuration
  bool use_cache = true;        // false builds again and replaces what the cache holds
};

struct PackageTree {
  std::filesystem::path root;      // do not change: it is the cache's; copy with copy_tree()
  std::filesystem::path packages;  // text, one "name version" a line, sorted
  bool from_cache = false;
};

// The release of Debian that guests are made of.
inline constexpr const char* k_guest_suite = "trixie";

// Needs root, mmdebstrap and a Debian archive keyring with the release's keys.
base::Result<PackageTree> make_package_tree(const PackageTreeRequest& request);

// "name version" lines from a dpkg status file, sorted.
std::string list_packages(std::string_view dpkg_status);

// A copy by hard links: names may be removed and added in it, contents of files there may not be changed in
// place.
base::Result<> copy_tree(const std::filesystem::path& from, const std::filesystem::path& to);

// Removes what depends on when and where a tree was made: logs, caches, lock and backup files, resolv.conf,
// machine-id.
base::Result<> remove_traces(const std::filesystem::path& root);

}  // namespace dstack::host
