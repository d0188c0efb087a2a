// Hashes of files of any size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/result.h"

namespace dstack::host {

// Lower-case hex of the file's sha256; of its first `limit` bytes when that is not zero.
base::Result<std::string> sha256_file(const std::filesystem::path& path, std::uint64_t limit = 0);

}  // namespace dstack::host
