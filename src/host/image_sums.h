// sha256sum.txt of a guest image, and what it must say about the image's files.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "host/image.h"

namespace dstack::host {

struct FileSum {
  std::string sha256;  // lower hex
  std::string name;    // a file name, no path
};

// "<64 hex digits>  <name>" lines as sha256sum writes them; no name twice. Total: Code::image_corrupt
// otherwise.
Result<std::vector<FileSum>> parse_sums(std::string_view text);

// verify_image_digest(), and no file in the directory that sha256sum.txt does not list, but for the list
// itself, its digest, the root disk (bound by its verity root hash in the kernel's command line) and what the
// format leaves out by name. For images that come from elsewhere.
Result<> verify_published_image(const Image& image);

}  // namespace dstack::host
