#include "host/layout.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/utf8.h"
#include "host/journal.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

std::string slug(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 && static_cast<unsigned char>(c) < 0x80) {
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!out.empty() && out.back() != '-') {
      out += '-';
    }
  }
  while (!out.empty() && out.back() == '-') {
    out.pop_back();
  }
  return out.empty() ? "prefix" : out;
}

std::string fnv1a32_hex(std::string_view text) {
  std::uint32_t hash = 0x811c9dc5;
  for (const char c : text) {
    hash ^= static_cast<std::uint8_t>(c);
    hash *= 0x01000193;
  }
  return base::format("{:08x}", hash);
}

std::string_view last_component(std::string_view path) {
  while (!path.empty() && path.back() == '/') {
    path.remove_suffix(1);
  }
  const auto slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

bool is_there(const fs::path& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0;
}

// Where the pieces of a state directory are put together before they appear under their name.
fs::path staging_of(const fs::path& missing) {
  return missing.parent_path() / ("." + missing.filename().string() + ".dstackup-new");
}

// `path` and those of its parents that do not exist, outermost first.
std::vector<fs::path> missing_directories(const fs::path& path) {
  std::vector<fs::path> missing;
  for (fs::path at = path; !is_there(at); at = at.parent_path()) {
    missing.insert(missing.begin(), at);
  }
  return missing;
}

// Holds the lock of the directory at `path`; an empty one: it is not there, or somebody else holds it.
Result<base::Fd> try_lock_directory(const fs::path& path) {
  base::Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd && errno == ENOENT) {
    return base::Fd();
  }
  if (!fd) {
    return base::fail_errno(Code::io, "cannot open the directory " + path.string(), errno);
  }
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK || errno == EINTR) {
      return base::Fd();
    }
    return base::fail_errno(Code::io, "cannot lock the directory " + path.string(), errno);
  }
  struct stat held = {};
  struct stat there = {};
  const bool same = ::fstat(fd.get(), &held) == 0 && ::lstat(path.c_str(), &there) == 0 &&
                    held.st_dev == there.st_dev && held.st_ino == there.st_ino;
  return same ? std::move(fd) : base::Fd();
}

// Makes the staging directory or takes over what a crash left of it. Others are through with it in moments.
Result<base::Fd> claim_staging(const fs::path& staging) {
  for (int attempt = 0; attempt < 400; ++attempt) {
    if (::mkdir(staging.c_str(), 0755) == 0) {
      ::chmod(staging.c_str(), 0755);
    } else if (errno != EEXIST) {
      return base::fail_errno(Code::io, "cannot create the directory " + staging.string(), errno);
    }
    DS_TRY(auto lock, try_lock_directory(staging));
    if (lock) {
      return lock;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
  }
  return base::fail(Code::locked, "another dstackup works on " + staging.string(),
                    "wait until it has finished and try again");
}

Result<> discard_unless_locked(const fs::path& staging) {
  DS_TRY(const auto lock, try_lock_directory(staging));
  return lock ? base::remove_tree(staging) : Result<>();
}

}  // namespace

Result<> validate_directory(const fs::path& path, std::string_view what) {
  const std::string text = path.string();
  // Both are written to files that hold neither.
  if (!base::is_utf8(text)) {
    return base::fail(Code::layout, base::format("{} is not UTF-8 text", what),
                      "choose a name that is, best of letters, digits and hyphens");
  }
  if (std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; })) {
    return base::fail(Code::layout, base::format("{} contains a control character", what),
                      "choose another name");
  }
  if (!path.is_absolute()) {
    return base::fail(Code::layout, base::format("{} '{}' is not an absolute path", what, text),
                      "give a path that starts with /");
  }
  if (text.find_first_not_of('/') == std::string::npos) {
    return base::fail(Code::layout, base::format("{} must not be the root directory", what),
                      "name a directory of its own, for example /opt/dstack");
  }
  for (const auto& part : path) {
    if (part == "." || part == "..") {
      return base::fail(Code::layout,
                        base::format("{} '{}' contains a '{}' segment", what, text, part.string()),
                        "give the path without . and ..");
    }
  }
  return {};
}

bool lies_in(const fs::path& path, const fs::path& directory) {
  const auto relative = path.lexically_normal().lexically_relative(directory);
  return !relative.empty() && *relative.begin() != "..";
}

Result<Layout> Layout::make(const std::optional<std::string>& prefix) {
  Layout layout;
  if (!prefix) {
    layout.bin = "/usr/local/bin";
    layout.libexec = "/usr/local/libexec/dstack";
    layout.share = "/usr/local/share/dstack";
    layout.config = "/etc/dstack";
    layout.state = "/var/lib/dstack";
    layout.cache = "/var/cache/dstack";
    layout.run = "/run/dstack";
    return layout;
  }
  DS_CHECK(validate_directory(*prefix, "--prefix"));
  std::string text = *prefix;
  while (text.size() > 1 && text.back() == '/') {
    text.pop_back();
  }
  const fs::path root(text);
  layout.prefix = root;
  layout.bin = root / "bin";
  layout.libexec = root / "libexec/dstack";
  layout.share = root / "share/dstack";
  layout.config = root / "etc/dstack";
  layout.state = root / "var/lib/dstack";
  layout.cache = root / "var/cache/dstack";
  layout.run = root / "run/dstack";
  return layout;
}

Result<std::string> instance_name(const std::optional<std::string>& instance,
                                  const std::optional<std::string>& prefix) {
  if (instance) {
    const bool good =
        !instance->empty() && instance->size() <= 64 && std::ranges::all_of(*instance, [](char c) {
          return (std::isalnum(static_cast<unsigned char>(c)) != 0 && static_cast<unsigned char>(c) < 0x80) ||
                 c == '.' || c == '_' || c == '-';
        });
    if (!good) {
      return base::fail(Code::invalid_argument, base::format("--instance '{}' is not usable", *instance),
                        "use 1 to 64 letters, digits, dots, underscores and hyphens");
    }
    return *instance;
  }
  if (prefix) {
    return slug(last_component(*prefix)) + "-" + fnv1a32_hex(*prefix);
  }
  return std::string();
}

std::string unit_name(std::string_view service, std::string_view instance) {
  return instance.empty() ? std::string(service) : base::format("{}-{}", service, instance);
}

Result<> ensure_state_directory(const Layout& layout) {
  if (is_there(layout.state)) {
    return {};
  }
  const auto missing = missing_directories(layout.state);
  // Built beside its final place and renamed: a crash leaves either a staging directory, whose name says
  // whose it is and which the next run replaces, or the whole with its journal.
  const fs::path staging = staging_of(missing.front());
  DS_TRY(const auto lock, claim_staging(staging));
  if (is_there(missing.front())) {
    // Somebody else was faster.
    DS_CHECK(base::remove_tree(staging));
    return ensure_state_directory(layout);
  }
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator it(staging, error), end; !error && it != end; it.increment(error)) {
    leftovers.push_back(it->path());
  }
  for (const auto& leftover : leftovers) {
    DS_CHECK(base::remove_tree(leftover));
  }
  const fs::path inside = staging / layout.state.lexically_relative(missing.front());
  DS_CHECK(base::make_dirs(inside.lexically_normal(), 0755));
  {
    DS_TRY(auto journal, Journal::open(inside.lexically_normal() / "journal"));
    for (const auto& directory : missing) {
      DS_CHECK(journal.record({JournalEntry::Kind::directory, directory.string(), "state"}));
    }
  }
  if (::rename(staging.c_str(), missing.front().c_str()) != 0) {
    const int error_number = errno;
    DS_CHECK(base::remove_tree(staging));
    return base::fail_errno(Code::io, "cannot create " + missing.front().string(), error_number);
  }
  const base::Fd parent(::open(missing.front().parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) {
    return base::fail_errno(Code::io, "cannot sync " + missing.front().parent_path().string(), errno);
  }
  return {};
}

Result<> remove_state_root(const fs::path& root) {
  const fs::path staging = staging_of(root);
  DS_CHECK(discard_unless_locked(staging));
  DS_TRY(const auto lock, try_lock_directory(root));
  if (!lock) {
    return base::fail(Code::locked, "another dstackup works on " + root.string());
  }
  if (::rename(root.c_str(), staging.c_str()) != 0) {
    return base::fail_errno(Code::io, "cannot remove " + root.string(), errno);
  }
  return base::remove_tree(staging);
}

Result<> check_no_file_in_the_way(const Layout& layout) {
  for (const auto& directory : {layout.state, layout.config, layout.run}) {
    fs::path at;
    for (const auto& part : directory) {
      at /= part;
      struct stat info = {};
      if (::stat(at.c_str(), &info) != 0) {
        break;
      }
      if (!S_ISDIR(info.st_mode)) {
        return base::fail(
            Code::layout,
            base::format("{} is not a directory, and {} would lie in it", at.string(), directory.string()),
            layout.prefix ? "name the directory of an installation with --prefix" : "move it away");
      }
    }
  }
  return {};
}

Result<> discard_unfinished_state_directory(const Layout& layout) {
  const auto missing = missing_directories(layout.state);
  return missing.empty() ? Result<>() : discard_unless_locked(staging_of(missing.front()));
}

}  // namespace dstack::host
