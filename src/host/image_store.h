// A containers-storage image store (overlay driver) from image archives: what podman reads as an
// additionalimagestores directory.
#pragma once

#include <filesystem>
#include <vector>

#include "base/result.h"
#include "host/container_archive.h"

namespace dstack::host {

// Copies `images` with skopeo into `work`/store and returns that path. Names, times and locks in it are made
// to depend on the images' contents only.
base::Result<std::filesystem::path> make_image_store(const std::filesystem::path& work,
                                                     const std::vector<ArchivedImage>& images);

}  // namespace dstack::host
