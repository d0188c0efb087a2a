// A FAT32 disk image with the files for the guest in its root (spec/host.md section 4.17, "vhd image").
#pragma once

#include <filesystem>
#include <string_view>

#include "base/result.h"

namespace dstack::vmm {

namespace fs = std::filesystem;

constexpr std::uint64_t k_fat_image_size = 128ULL * 1024 * 1024;

// Writes a sparse image of exactly 128 MiB with copies of the regular files of `source` (no directories, no
// symlinks) and `label` (at most 11 characters). Atomic: after an error there is no file at `target` that was
// not there before. Mode 0600. Equal inputs give equal bytes. Code::too_large when the files do not fit.
base::Result<> write_fat_image(const fs::path& source, const fs::path& target,
                               std::string_view label = "DSTACKSHR");

}  // namespace dstack::vmm
