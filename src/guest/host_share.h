// The files that the host hands over (spec/guest-kms.md section 5.1). Everything on that disk is hostile
// until measured: the files are copied once, and whatever follows uses only the copy.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "base/result.h"

namespace dstack::guest {

struct ShareFile {
  std::string_view name;
  std::size_t limit;  // bytes
  bool required;
};
// Exactly these are copied; anything else on the share is never looked at.
std::span<const ShareFile> share_files();

// Copies regular files of acceptable size from `from` into the new directory `to` (0700, files 0600).
// Symlinks, FIFOs, devices and directories under a known name are errors that name the file, not files to
// skip.
base::Result<> copy_host_share(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace dstack::guest
