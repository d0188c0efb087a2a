// File trees made of Debian packages with mmdebstrap, kept in a cache as one archive each.
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
  std::filesystem::path cache;  // archives are kept in cache/trees/<key>
  std::string mirror;           // empty = from this machine's apt configuration
  bool use_cache = true;        // false builds again and replaces what the cache holds
};

struct PackageTree {
  std::filesystem::path archive;   // a tar packed with zstd; it is the cache's; see unpack_tree()
  std::filesystem::path packages;  // text, one "name version" a line, sorted
  bool from_cache = false;
};

// The release of Debian that guests are made of.
inline constexpr const char* k_guest_suite = "trixie";

// Needs root, mmdebstrap and a Debian archive keyring with the release's keys.
base::Result<PackageTree> make_package_tree(const PackageTreeRequest& request);

// "name version" lines from a dpkg status file, sorted.
std::string list_packages(std::string_view dpkg_status);

// Makes the directory `to` and unpacks the tree into it, with owners, modes and extended attributes.
base::Result<> unpack_tree(const PackageTree& tree, const std::filesystem::path& to);

// Removes what depends on when and where a tree was made: logs, caches, lock and backup files, resolv.conf,
// machine-id.
base::Result<> remove_traces(const std::filesystem::path& root);

}  // namespace dstack::host
