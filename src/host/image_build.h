// Builds a guest image directory from Debian packages.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Result;

struct BuildImage {
  fs::path images;           // directory of images; the result is images/name
  std::string name;          // empty = "dstack-<version>"
  fs::path cache;            // package trees are kept here, keyed by suite, mirror and recipe
  fs::path programs;         // directory with dstack-init and dstack-guest
  fs::path recipe;           // the image/ data files
  std::string mirror;        // empty = from this machine's apt configuration
  std::string version;       // DSTACK_VERSION
  std::string git_revision;  // empty when unknown
  bool use_cache = true;
  std::function<void(std::string_view line)> report;  // one line per finished stage, with its time
};

struct BuiltImage {
  fs::path directory;
  std::string os_image_hash;
  bool unchanged = false;  // the image there already had this digest
};

// As root, without device-mapper. Staged beside the result and renamed into place.
Result<BuiltImage> build_image(const BuildImage& what);

// The base URL of the Debian archive in apt's configuration below `etc_apt` (sources.list,
// sources.list.d/*.list and
// *.sources): the first one that serves the component main of a Debian release.
Result<std::string> mirror_from_apt(const fs::path& etc_apt);

}  // namespace dstack::host
