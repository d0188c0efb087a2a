// Builds a guest image directory from Debian packages (image/README.md).
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Result;

struct BuildImage {
  fs::path images;      // directory of images; the result is images/name
  std::string name;     // empty = "dstack-<version>"
  fs::path cache;       // package trees are kept here
  fs::path programs;    // directory with dstack-init and dstack-guest
  fs::path recipe;      // the files of image/
  std::string mirror;   // empty = from this machine's apt configuration
  std::string version;  // DSTACK_VERSION
  bool use_cache = true;
  std::function<void(std::string_view line)> report;  // one line per finished stage, with its time
};

struct BuiltImage {
  std::string name;
  fs::path directory;
  std::string os_image_hash;
  bool unchanged = false;  // an image with this name and digest was there
};

// As root, without device-mapper. Staged beside the result and renamed into place. The same packages,
// programs and recipe give the same bytes.
Result<BuiltImage> build_image(const BuildImage& what);

}  // namespace dstack::host
