// Files: bounded reads, atomic durable writes, locks.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/result.h"

namespace dstack::base {

namespace fs = std::filesystem;

constexpr std::size_t k_max_small_file = 16 * 1024 * 1024;

// Whole regular file, or anything below /dev or /proc. Code::not_found / permission / too_large / io.
Result<std::string> read_file(const fs::path& path, std::size_t limit = k_max_small_file);

struct WriteOptions {
  // Mode of a new file. An existing file keeps its mode and owner unless `force_mode`.
  mode_t mode = 0644;
  bool force_mode = false;
};
// Atomic and durable: unique temporary file in the same directory, fsync, rename, fsync of the directory. A
// symlink at `path` is refused. After an error the old file is untouched and no temporary file is left.
Result<> write_file_atomic(const fs::path& path, std::string_view data, WriteOptions options = {});

// mkdir -p; new directories get `mode` regardless of umask.
Result<> make_dirs(const fs::path& path, mode_t mode = 0755);
// Recursive removal that follows no symlink; a missing path is success.
Result<> remove_tree(const fs::path& path);
// Unlink; a missing file is success.
Result<> remove_file(const fs::path& path);

// Exclusive flock held until destruction; its holder may remove the file, who waited then locks the next one.
class FileLock {
 public:
  // Waits.
  static Result<FileLock> acquire(const fs::path& path);
  // nullopt when another process holds it.
  static Result<std::optional<FileLock>> try_acquire(const fs::path& path);

 private:
  explicit FileLock(Fd fd) : m_fd(std::move(fd)) {}
  Fd m_fd;
};

}  // namespace dstack::base
