// A published guest image brought here, for image pull and for install.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "cli/progress.h"
#include "host/image_pull.h"
#include "host/layout.h"

namespace dstack::dstackup {

struct FetchImage {
  host::Layout layout;
  std::filesystem::path images;        // to put it in
  std::optional<std::string> api;      // release server; absent = the default
  std::optional<std::string> version;  // absent = the latest
  bool gpu = false;
  bool force = false;
  bool insecure = false;
};
base::Result<host::PulledImage> fetch_image(const FetchImage& what, cli::Progress& progress);

}  // namespace dstack::dstackup
