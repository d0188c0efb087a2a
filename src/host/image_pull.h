// A published guest image from the release server to the images directory: looked up, downloaded, unpacked
// beside its place, checked, adopted by rename (spec/host.md section 1.9).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "host/archive.h"
#include "host/image.h"
#include "host/image_use.h"
#include "host/release.h"
#include "net/fetch.h"

namespace dstack::host {

struct PullImage {
  fs::path images;
  std::string api = k_release_api;     // see clean_release_api()
  std::optional<std::string> version;  // as given; absent = the latest
  bool gpu = false;
  bool force = false;     // also when it is there already
  bool insecure = false;  // also when the release names no digest
  net::FetchOptions fetch;
  ArchiveLimits limits;
  std::uint64_t max_download = std::uint64_t{8} << 30;
  unsigned retries = 3;
  std::chrono::milliseconds pause{2'000};
  ImageUse use;  // of `images`: an image that somebody needs may only be replaced by itself
  std::function<void(std::string_view line)> report;
  std::function<void(std::string_view line)> warn;
  std::function<void(std::uint64_t done, std::optional<std::uint64_t> total)> on_progress;
};

struct PulledImage {
  Image image;
  std::string release;  // its tag
  std::string sha256;   // of the archive; "" when nothing was downloaded
  bool unchanged = false;
  bool resumed = false;
};

// Looks a release up. Code::download for refusals, Code::release for answers that are none.
Result<Release> find_release(const PullImage& what);
Result<PulledImage> pull_image(const PullImage& what);

}  // namespace dstack::host
