#include "base/trusted_path.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/format.h"

namespace dstack::base {

namespace {

namespace fs = std::filesystem;

constexpr int k_most_links = 40;

bool is_trusted(uid_t owner) {
  return owner == 0 || owner == ::geteuid();
}

Untrusted of_another(const fs::path& path, uid_t owner) {
  return {path, format("belongs to another user (uid {})", owner),
          format("run \"chown -h root {}\", or choose another directory", path.string())};
}

std::optional<Untrusted> look_at(const fs::path& directory, bool sticky_will_do) {
  struct stat info = {};
  if (::stat(directory.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return std::nullopt;
  }
  if (!is_trusted(info.st_uid)) {
    return of_another(directory, info.st_uid);
  }
  const bool others = (info.st_mode & S_IWOTH) != 0;
  if ((!others && (info.st_mode & S_IWGRP) == 0) || (sticky_will_do && (info.st_mode & S_ISVTX) != 0)) {
    return std::nullopt;
  }
  return Untrusted{
      directory,
      format("can be changed by {} (mode {:o})", others ? "everybody" : "its group", info.st_mode & 07777),
      format("run \"chmod go-w {}\", or choose another directory", directory.string())};
}

std::optional<Untrusted> walk(const fs::path& path, bool sticky_will_do, int& links) {
  fs::path at;
  for (auto part = path.begin(); part != path.end() && !part->empty(); ++part) {
    at /= *part;
    const bool last = std::next(part) == path.end() || std::next(part)->empty();
    const bool sticky = sticky_will_do || !last;
    struct stat info = {};
    if (::lstat(at.c_str(), &info) != 0) {
      return std::nullopt;
    }
    if (!S_ISLNK(info.st_mode)) {
      if (auto found = look_at(at, sticky)) {
        return found;
      }
      continue;
    }
    if (!is_trusted(info.st_uid)) {
      return of_another(at, info.st_uid);
    }
    std::error_code error;
    const auto from = fs::canonical(at.parent_path(), error);
    const auto target = error ? fs::path() : fs::read_symlink(at, error);
    if (error || --links < 0) {
      return std::nullopt;  // nothing can be reached through it
    }
    if (auto found = walk((from / target).lexically_normal(), sticky, links)) {
      return found;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<Untrusted> find_untrusted_directory(const fs::path& path) {
  int links = k_most_links;
  return walk(path.lexically_normal(), /*sticky_will_do=*/false, links);
}

std::optional<Untrusted> find_untrusted_parent(const fs::path& file) {
  return look_at(file.has_parent_path() ? file.parent_path() : fs::path("."), /*sticky_will_do=*/true);
}

}  // namespace dstack::base
