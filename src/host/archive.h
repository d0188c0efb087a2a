// tar and tar.gz files from elsewhere: libarchive reads them, what may be in them is decided here. Only plain
// files and directories inside the target, in bounded number and size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::host {

struct ArchiveLimits {
  std::size_t max_entries = 4096;
  std::uint64_t max_total = std::uint64_t{16} << 30;  // of all files
  std::size_t max_path = 512;
  std::size_t max_depth = 8;
};

struct ArchiveEntry {
  std::string path;  // relative, without "." segments and trailing slash
  bool directory = false;
  bool executable = false;
  std::uint64_t size = 0;
};

// The rule for one entry's name: relative, no "..", no control characters, no backslash, not empty; "./"
// prefixes are dropped ("" is then the top directory itself). Code::archive otherwise.
base::Result<std::string> clean_entry_path(std::string_view path, const ArchiveLimits& limits = {});

// Unpacks into the existing directory `target`. Files are 0644 (0755 when `keep_executable` and so marked),
// directories 0755, all of this user and durable. After an error `target` holds a part.
base::Result<std::vector<ArchiveEntry>> unpack_archive(const std::filesystem::path& archive,
                                                       const std::filesystem::path& target,
                                                       const ArchiveLimits& limits = {},
                                                       bool keep_executable = false);
// The same checks, contents read and dropped.
base::Result<std::vector<ArchiveEntry>> check_archive(base::ByteView archive,
                                                      const ArchiveLimits& limits = {});

}  // namespace dstack::host
