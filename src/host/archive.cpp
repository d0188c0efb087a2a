#include "host/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>

#include "base/fd.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::host {

using base::Code;
using base::Error;
using base::Result;

namespace {

namespace fs = std::filesystem;

constexpr std::size_t k_block = 1 << 20;
constexpr const char* k_fix = "do not use it; fetch it again, or from another source";

struct FreeArchive {
  void operator()(struct archive* a) const { ::archive_read_free(a); }
};
using Reader = std::unique_ptr<struct archive, FreeArchive>;

std::unexpected<Error> refuse(std::string why) {
  return base::fail(Error{Code::archive, "the archive is not acceptable", std::move(why), k_fix});
}

std::unexpected<Error> refuse_entry(std::string_view name, std::string_view why) {
  return refuse(base::format("'{}' {}", base::escape_control(name), why));
}

std::unexpected<Error> unreadable(struct archive* a) {
  const char* why = ::archive_error_string(a);
  return refuse(
      base::format("it is damaged: {}", why == nullptr ? "no reason given" : base::escape_control(why)));
}

Reader new_reader() {
  Reader reader(::archive_read_new());
  if (reader) {
    ::archive_read_support_filter_gzip(reader.get());
    ::archive_read_support_format_tar(reader.get());
  }
  return reader;
}

// Where entries go.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual Result<> directory(const ArchiveEntry& entry) = 0;
  virtual Result<> begin(const ArchiveEntry& entry) = 0;
  virtual Result<> data(base::ByteView bytes) = 0;
  virtual Result<> end() = 0;
};

class Nowhere : public Sink {
 public:
  Result<> directory(const ArchiveEntry&) override { return {}; }
  Result<> begin(const ArchiveEntry&) override { return {}; }
  Result<> data(base::ByteView) override { return {}; }
  Result<> end() override { return {}; }
};

class Directory : public Sink {
 public:
  Directory(fs::path target, bool keep_executable)
      : m_target(std::move(target)), m_keep_executable(keep_executable) {}

  Result<> directory(const ArchiveEntry& entry) override { return make(m_target / entry.path); }

  Result<> begin(const ArchiveEntry& entry) override {
    m_path = m_target / entry.path;
    DS_CHECK(make(m_path.parent_path()));
    struct statvfs info = {};
    if (::statvfs(m_target.c_str(), &info) == 0 &&
        static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize < entry.size) {
      return base::fail(Code::no_space, base::format("there is no room for {}", m_path.string()),
                        "free some space");
    }
    const mode_t mode = m_keep_executable && entry.executable ? 0755 : 0644;
    m_fd.reset(::open(m_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
    if (!m_fd || ::fchmod(m_fd.get(), mode) != 0) {
      return base::fail_errno(Code::io, "cannot create " + m_path.string(), errno);
    }
    return {};
  }

  Result<> data(base::ByteView bytes) override {
    while (!bytes.empty()) {
      const auto n = ::write(m_fd.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) {
        continue;
      }
      if (n <= 0) {
        return base::fail_errno(errno == ENOSPC ? Code::no_space : Code::io,
                                "cannot write " + m_path.string(), errno, "free some space");
      }
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
    return {};
  }

  Result<> end() override {
    if (::fsync(m_fd.get()) != 0) {
      return base::fail_errno(Code::io, "cannot write " + m_path.string(), errno);
    }
    m_fd.reset();
    return {};
  }

 private:
  // The target's inside is made by us alone and holds no links, so a path leads where it says.
  Result<> make(const fs::path& path) {
    if (path == m_target || path == m_target / "") {
      return {};
    }
    DS_CHECK(make(path.parent_path()));
    if (::mkdir(path.c_str(), 0755) != 0) {
      struct stat info = {};
      if (errno != EEXIST || ::lstat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
        return base::fail_errno(Code::io, "cannot create the directory " + path.string(), EEXIST);
      }
      return {};
    }
    if (::chmod(path.c_str(), 0755) != 0) {
      return base::fail_errno(Code::io, "cannot set the mode of " + path.string(), errno);
    }
    return {};
  }

  fs::path m_target;
  bool m_keep_executable;
  fs::path m_path;
  base::Fd m_fd;
};

Result<ArchiveEntry> check_entry(struct archive_entry* raw, const ArchiveLimits& limits) {
  const char* name = ::archive_entry_pathname(raw);
  if (name == nullptr) {
    return refuse("an entry has no usable name");
  }
  const std::string_view shown = name;
  ArchiveEntry out;
  DS_TRY(out.path, clean_entry_path(shown, limits));
  if (::archive_entry_hardlink(raw) != nullptr) {
    return refuse_entry(shown, "is a hard link");
  }
  switch (::archive_entry_filetype(raw)) {
    case AE_IFREG:
      break;
    case AE_IFDIR:
      out.directory = true;
      break;
    case AE_IFLNK:
      return refuse_entry(shown, "is a symbolic link");
    case AE_IFCHR:
    case AE_IFBLK:
      return refuse_entry(shown, "is a device");
    case AE_IFIFO:
      return refuse_entry(shown, "is a pipe");
    default:
      return refuse_entry(shown, "is neither a file nor a directory");
  }
  if (::archive_entry_symlink(raw) != nullptr) {
    return refuse_entry(shown, "is a symbolic link");
  }
  const auto mode = ::archive_entry_perm(raw);
  if ((mode & (S_ISUID | S_ISGID)) != 0 && !out.directory) {
    return refuse_entry(shown, "is set-uid or set-gid");
  }
  if (out.directory) {
    return out;
  }
  if (out.path.empty() || shown.ends_with('/')) {
    return refuse_entry(shown, "is a file without a name");
  }
  const auto size = ::archive_entry_size_is_set(raw) != 0 ? ::archive_entry_size(raw) : -1;
  if (size < 0) {
    return refuse_entry(shown, "has no size");
  }
  out.size = static_cast<std::uint64_t>(size);
  out.executable = (mode & S_IXUSR) != 0;
  return out;
}

Result<> copy_data(struct archive* a, const ArchiveEntry& entry, Sink& sink) {
  std::vector<std::uint8_t> buffer(std::min<std::uint64_t>(k_block, std::max<std::uint64_t>(entry.size, 1)));
  std::uint64_t seen = 0;
  while (true) {
    const auto n = ::archive_read_data(a, buffer.data(), buffer.size());
    if (n < 0) {
      return unreadable(a);
    }
    if (n == 0) {
      break;
    }
    seen += static_cast<std::uint64_t>(n);
    if (seen > entry.size) {
      return refuse_entry(entry.path, "is longer than its header says");
    }
    DS_CHECK(sink.data({buffer.data(), static_cast<std::size_t>(n)}));
  }
  if (seen != entry.size) {
    return refuse_entry(entry.path, "is shorter than its header says");
  }
  return {};
}

Result<std::vector<ArchiveEntry>> walk(struct archive* a, const ArchiveLimits& limits, Sink& sink) {
  std::vector<ArchiveEntry> out;
  std::set<std::string, std::less<>> files;
  std::set<std::string, std::less<>> directories;
  std::uint64_t total = 0;
  while (true) {
    struct archive_entry* raw = nullptr;
    const int status = ::archive_read_next_header(a, &raw);
    if (status == ARCHIVE_EOF) {
      break;
    }
    if (status != ARCHIVE_OK) {
      return unreadable(a);
    }
    if (out.size() >= limits.max_entries) {
      return refuse(base::format("it has more than {} entries", limits.max_entries));
    }
    DS_TRY(auto entry, check_entry(raw, limits));
    if (entry.path.empty()) {
      continue;
    }
    // A name is one thing, once: otherwise what was checked could be replaced by a later entry.
    for (auto slash = entry.path.find('/'); slash != std::string::npos;
         slash = entry.path.find('/', slash + 1)) {
      if (files.contains(std::string_view(entry.path).substr(0, slash))) {
        return refuse_entry(entry.path, "lies below a file");
      }
      directories.insert(entry.path.substr(0, slash));
    }
    if (files.contains(entry.path) || (!entry.directory && directories.contains(entry.path))) {
      return refuse_entry(entry.path, "is there twice");
    }
    (entry.directory ? directories : files).insert(entry.path);
    if (entry.directory) {
      DS_CHECK(sink.directory(entry));
    } else {
      if (entry.size > limits.max_total - total) {
        return refuse(base::format("its files have more than {} bytes", limits.max_total));
      }
      total += entry.size;
      DS_CHECK(sink.begin(entry));
      DS_CHECK(copy_data(a, entry, sink));
      DS_CHECK(sink.end());
    }
    out.push_back(std::move(entry));
  }
  if (::archive_format(a) == ARCHIVE_FORMAT_EMPTY || out.empty()) {
    return refuse("it is empty");
  }
  return out;
}

}  // namespace

Result<std::string> clean_entry_path(std::string_view path, const ArchiveLimits& limits) {
  if (path.empty()) {
    return refuse("an entry has an empty name");
  }
  if (path.size() > limits.max_path) {
    return refuse("an entry has a very long name");
  }
  if (path.starts_with('/')) {
    return refuse_entry(path, "is an absolute path");
  }
  const bool odd = std::ranges::any_of(
      path, [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\' || c >= 0x80; });
  if (odd) {
    return refuse_entry(path, "has characters that do not belong in a file name");
  }
  std::string out;
  std::size_t depth = 0;
  for (std::size_t at = 0; at < path.size();) {
    const auto end = std::min(path.find('/', at), path.size());
    const auto part = path.substr(at, end - at);
    at = end + 1;
    if (part.empty() || part == ".") {
      continue;
    }
    if (part == "..") {
      return refuse_entry(path, "leads out of the archive");
    }
    if (part.size() > 255 || ++depth > limits.max_depth) {
      return refuse_entry(path.substr(0, 80), "lies too deep or has too long a name");
    }
    out += (out.empty() ? "" : "/") + std::string(part);
  }
  return out;
}

Result<std::vector<ArchiveEntry>> unpack_archive(const fs::path& archive, const fs::path& target,
                                                 const ArchiveLimits& limits, bool keep_executable) {
  const auto reader = new_reader();
  if (!reader) {
    return base::fail(Code::internal, "libarchive cannot be set up");
  }
  if (::archive_read_open_filename(reader.get(), archive.c_str(), k_block) != ARCHIVE_OK) {
    return unreadable(reader.get());
  }
  Directory sink(target, keep_executable);
  return walk(reader.get(), limits, sink);
}

Result<std::vector<ArchiveEntry>> check_archive(base::ByteView archive, const ArchiveLimits& limits) {
  const auto reader = new_reader();
  if (!reader) {
    return base::fail(Code::internal, "libarchive cannot be set up");
  }
  if (::archive_read_open_memory(reader.get(), archive.data(), archive.size()) != ARCHIVE_OK) {
    return unreadable(reader.get());
  }
  Nowhere sink;
  return walk(reader.get(), limits, sink);
}

}  // namespace dstack::host
