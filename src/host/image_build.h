// Builds a guest image directory from Debian packages (image/README.md).
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "host/image_use.h"

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
  bool force = false;  // also over another image that somebody needs, or over what is no image
  ImageUse use;        // of `images`
  std::function<void(std::string_view line)> report;  // one line per finished stage, with its time
};

struct BuiltImage {
  std::string name;
  fs::path directory;
  std::string os_image_hash;
  bool unchanged = false;  // an image with this name and digest was there
};

// As root, without device-mapper. The same packages, programs and recipe give the same bytes. Staged beside
// the result and put into its place by publish_image().
Result<BuiltImage> build_image(const BuildImage& what);
// Puts the finished image directory `stage` at `<what.images>/<name>`, in one step: what was there is at
// `stage` afterwards. The same image stays as it is. Code::image_in_use without `force`, see
// check_replacement().
Result<BuiltImage> publish_image(const BuildImage& what, const fs::path& stage, const std::string& name);

}  // namespace dstack::host
