#include "base/fs.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <cerrno>

namespace dstack::base {

namespace {

Result<> write_all(int fd, std::string_view data, const fs::path& path) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) {
        continue;
      }
      return fail_errno(Code::io, "cannot write " + path.string(), errno);
    }
    data.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Result<> sync_directory(const fs::path& directory) {
  const Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) {
    return fail_errno(Code::io, "cannot sync the directory " + directory.string(), errno);
  }
  return {};
}

std::string random_suffix() {
  std::uint8_t raw[8];
  if (::getrandom(raw, sizeof raw, 0) != sizeof raw) {
    return std::to_string(::getpid());
  }
  return to_hex(raw);
}

// Removes the temporary file unless the rename happened.
struct TemporaryFile {
  fs::path path;
  bool committed = false;
  ~TemporaryFile() {
    if (!committed) {
      ::unlink(path.c_str());
    }
  }
};

// Is the open file still the one that has this name?
bool is_at(const Fd& fd, const fs::path& path) {
  struct stat open_file = {};
  struct stat named = {};
  return ::fstat(fd.get(), &open_file) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino;
}

Result<Fd> lock_file(const fs::path& path, int operation) {
  while (true) {
    Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) {
      return fail_errno(Code::io, "cannot open the lock file " + path.string(), errno);
    }
    if (::flock(fd.get(), operation) == 0) {
      // Who held it may have removed it: then the next one to come locks another file.
      if (is_at(fd, path)) {
        return fd;
      }
    } else if (errno == EWOULDBLOCK) {
      return Fd();
    } else if (errno != EINTR) {
      return fail_errno(Code::io, "cannot lock " + path.string(), errno);
    }
  }
}

}  // namespace

Result<std::string> read_file(const fs::path& path, std::size_t limit) {
  // A pipe that somebody put in a file's place must not keep us waiting for a writer; one that is named as
  // /dev/stdin or /dev/fd/63 is meant.
  const bool may_wait = path.string().starts_with("/dev/") || path.string().starts_with("/proc/");
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | (may_wait ? 0 : O_NONBLOCK | O_NOCTTY)));
  struct stat info = {};
  if (!fd || (!may_wait && ::fstat(fd.get(), &info) != 0)) {
    return fail_errno(Code::io, "cannot open " + path.string(), errno);
  }
  if (!may_wait && !S_ISREG(info.st_mode)) {
    return fail(Code::io,
                path.string() + (S_ISDIR(info.st_mode) ? " is a directory" : " is not a regular file"),
                "put a regular file there, or name another");
  }
  std::string out;
  char buffer[16384];
  while (true) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0) {
      if (errno == EINTR) {
        continue;
      }
      return fail_errno(Code::io, "cannot read " + path.string(), errno);
    }
    if (n == 0) {
      return out;
    }
    if (out.size() + static_cast<std::size_t>(n) > limit) {
      return fail(Code::too_large, path.string() + " is larger than " + std::to_string(limit) + " bytes");
    }
    out.append(buffer, static_cast<std::size_t>(n));
  }
}

Result<> write_file_atomic(const fs::path& path, std::string_view data, WriteOptions options) {
  struct stat existing = {};
  const bool exists = ::lstat(path.c_str(), &existing) == 0;
  if (!exists && errno != ENOENT) {
    return fail_errno(Code::io, "cannot look at " + path.string(), errno);
  }
  if (exists && !S_ISREG(existing.st_mode)) {
    return fail(Code::io, path.string() + " is not a regular file", "remove it, or name another file");
  }
  const fs::path directory = path.has_parent_path() ? path.parent_path() : fs::path(".");
  TemporaryFile temporary{directory / ("." + path.filename().string() + "." + random_suffix() + ".tmp")};
  // Secrets pass through here, so the file is private until its final mode is set.
  const Fd fd(::open(temporary.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return fail_errno(Code::io, "cannot create a file in " + directory.string(), errno);
  }
  const bool keep = exists && !options.force_mode;
  if (keep && (existing.st_uid != ::geteuid() || existing.st_gid != ::getegid()) &&
      ::fchown(fd.get(), existing.st_uid, existing.st_gid) != 0) {
    return fail_errno(Code::io, "cannot keep the owner of " + path.string(), errno);
  }
  if (::fchmod(fd.get(), keep ? existing.st_mode & 07777 : options.mode) != 0) {
    return fail_errno(Code::io, "cannot set the mode of " + path.string(), errno);
  }
  DS_CHECK(write_all(fd.get(), data, path));
  if (::fsync(fd.get()) != 0) {
    return fail_errno(Code::io, "cannot sync " + path.string(), errno);
  }
  if (::rename(temporary.path.c_str(), path.c_str()) != 0) {
    return fail_errno(Code::io, "cannot replace " + path.string(), errno);
  }
  temporary.committed = true;
  return sync_directory(directory);
}

Result<> make_dirs(const fs::path& path, mode_t mode) {
  fs::path so_far;
  for (const auto& part : path) {
    so_far /= part;
    if (::mkdir(so_far.c_str(), mode) == 0) {
      if (::chmod(so_far.c_str(), mode) != 0) {
        return fail_errno(Code::io, "cannot set the mode of " + so_far.string(), errno);
      }
    } else if (errno != EEXIST && errno != EISDIR) {
      return fail_errno(Code::io, "cannot create the directory " + so_far.string(), errno);
    }
  }
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return fail(Code::io, path.string() + " is not a directory", "remove it, or name another directory");
  }
  return {};
}

Result<> remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) {
    return fail_errno(Code::io, "cannot remove " + path.string(), error.value());
  }
  return {};
}

Result<> remove_file(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return fail_errno(Code::io, "cannot remove " + path.string(), errno);
  }
  return {};
}

Result<FileLock> FileLock::acquire(const fs::path& path) {
  DS_TRY(auto fd, lock_file(path, LOCK_EX));
  return FileLock(std::move(fd));
}

Result<std::optional<FileLock>> FileLock::try_acquire(const fs::path& path) {
  DS_TRY(auto fd, lock_file(path, LOCK_EX | LOCK_NB));
  if (!fd) {
    return std::optional<FileLock>();
  }
  return std::optional<FileLock>(FileLock(std::move(fd)));
}

}  // namespace dstack::base
