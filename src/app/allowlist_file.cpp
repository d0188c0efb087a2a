#include "app/allowlist_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <nlohmann/json.hpp>

#include "app/strict_json.h"
#include "base/bytes.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/trusted_path.h"

namespace dstack::app {
namespace {

using base::Code;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr const char* k_missing_fix = "run \"dstackup install\" first, or name the file with --allowlist";
constexpr const char* k_sudo_fix = "run the command with sudo";

FileIdentity identity_of(const struct stat& status) {
  return {status.st_dev, status.st_ino,  status.st_size, status.st_mode,
          status.st_uid, status.st_mtim, status.st_ctim};
}

std::unexpected<base::Error> unsafe(const fs::path& path, std::string_view why, std::string fix) {
  return base::fail(Code::unsafe_allowlist, base::format("the allow-list {} {}", path.string(), why),
                    std::move(fix));
}

// The file to open: `path`, or what it links to inside the same directory.
base::Result<fs::path> resolve_inside_directory(const fs::path& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) {
    return base::fail_errno(Code::io, "cannot open the allow-list " + path.string(), errno, k_missing_fix);
  }
  if (!S_ISLNK(status.st_mode)) {
    return path;
  }
  std::error_code error;
  const fs::path directory =
      fs::canonical(path.has_parent_path() ? path.parent_path() : fs::path("."), error);
  if (error) {
    return base::fail_errno(Code::io, "cannot resolve " + path.string(), error.value());
  }
  const fs::path target = fs::canonical(path, error);
  if (error) {
    return base::fail_errno(Code::io, "cannot resolve " + path.string(), error.value());
  }
  if (target.parent_path() != directory) {
    return unsafe(path, "is a symlink out of its directory", "put the file itself there");
  }
  return target;
}

base::Result<> check_safe(const fs::path& path, const struct stat& status) {
  if (!S_ISREG(status.st_mode)) {
    return unsafe(path, "is not a regular file", "put a regular file there");
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return unsafe(path, "is writable by its group or by everybody",
                  base::format("run \"chmod go-w {}\"", path.string()));
  }
  if (status.st_uid != 0 && status.st_uid != ::geteuid()) {
    return unsafe(path, "belongs to another user than root or the service",
                  base::format("run \"chown root {}\"", path.string()));
  }
  // Whoever can rename there can bring an older list back.
  if (const auto found = base::find_untrusted_parent(path)) {
    return unsafe(path, base::format("lies in {}, which {}", found->directory.string(), found->why),
                  found->fix);
  }
  return {};
}

base::Error too_large(const fs::path& path) {
  return {Code::bad_allowlist,
          base::format("the allow-list {} is larger than {} bytes", path.string(), k_max_allowlist),
          {},
          {}};
}

bool is_too_large(off_t size) {
  return size > static_cast<off_t>(k_max_allowlist);
}

base::Result<std::string> read_all(int fd, const fs::path& path, off_t expected) {
  std::string text;
  text.reserve(static_cast<std::size_t>(std::clamp<off_t>(expected, 0, k_max_allowlist)));
  char buffer[65536];
  while (true) {
    const ssize_t count = ::read(fd, buffer, sizeof buffer);
    if (count < 0) {
      if (errno == EINTR) {
        continue;
      }
      return base::fail_errno(Code::io, "cannot read the allow-list " + path.string(), errno);
    }
    if (count == 0) {
      return text;
    }
    if (text.size() + static_cast<std::size_t>(count) > k_max_allowlist) {
      return base::fail(too_large(path));
    }
    text.append(buffer, static_cast<std::size_t>(count));
  }
}

base::Error explain(base::Error error, const fs::path& path) {
  if (error.code == Code::not_found) {
    error.message = base::format("there is no allow-list {}", path.string());
    error.cause.clear();
    error.fix = k_missing_fix;
  } else if (error.code == Code::permission) {
    error.fix = k_sudo_fix;
  } else if (error.code == Code::bad_allowlist) {
    error = std::move(error).wrap("nothing was changed in " + path.string());
    error.fix =
        base::format("repair or restore the file; \"dstack-auth --config {} --check\" explains what is wrong",
                     path.string());
  }
  return error;
}

base::Result<Json> read_for_change(const fs::path& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) {
    return base::fail_errno(Code::io, "cannot open the allow-list " + path.string(), errno);
  }
  if (!S_ISREG(status.st_mode)) {
    return unsafe(path, "is not a regular file", "name the file itself, not a link to it");
  }
  if (is_too_large(status.st_size)) {
    return base::fail(too_large(path));
  }
  DS_TRY(const std::string text, base::read_file(path, k_max_allowlist));
  // Never merge into what the webhook would refuse to read.
  DS_CHECK(parse_allowlist(text));
  return parse_json_strict(text, {.max_bytes = k_max_allowlist, .max_depth = 32});
}

using Change = std::function<bool(Json&)>;

base::Result<bool> change_locked(const fs::path& path, const Change& change) {
  // Looked at first, so that a wrong path does not leave a lock file behind.
  DS_CHECK(file_identity(path));
  DS_TRY(const base::FileLock lock, base::FileLock::acquire(path.string() + ".lock"));
  DS_TRY(Json document, read_for_change(path));
  try {
    if (!change(document)) {
      return false;
    }
    if (auto written = base::write_file_atomic(path, document.dump(2) + "\n"); !written) {
      base::Error error = std::move(written).error().wrap("cannot change the allow-list " + path.string());
      if (error.fix.empty()) {
        error.fix =
            base::format("see what \"findmnt -T {}\" and \"dmesg\" say about that disk", path.string());
      }
      return base::fail(std::move(error));
    }
  } catch (const std::exception& exception) {
    return base::fail(Code::bad_allowlist,
                      base::format("the allow-list {}: {}", path.string(), exception.what()));
  }
  return true;
}

base::Result<bool> change(const fs::path& path, const Change& function) {
  auto changed = change_locked(path, function);
  if (!changed) {
    return base::fail(explain(std::move(changed).error(), path));
  }
  return changed;
}

Json& member(Json& object, const char* key, Json::value_t type) {
  if (!object.contains(key)) {
    object[key] = Json(type);
  }
  return object[key];
}

bool same(const Json& entry, std::string_view normal) {
  return base::normalize_hex(entry.get_ref<const std::string&>()) == normal;
}

bool add_hash(Json& list, const std::string& normal) {
  if (std::any_of(list.begin(), list.end(), [&](const Json& entry) { return same(entry, normal); })) {
    return false;
  }
  list.push_back(normal);
  return true;
}

bool remove_hash(Json& list, const std::string& normal) {
  const auto kept =
      std::remove_if(list.begin(), list.end(), [&](const Json& entry) { return same(entry, normal); });
  const bool found = kept != list.end();
  list.erase(kept, list.end());
  return found;
}

Json::iterator find_app(Json& apps, std::string_view normal) {
  auto found = apps.begin();
  while (found != apps.end() && base::normalize_hex(found.key()) != normal) {
    ++found;
  }
  return found;
}

// Only digests are ever written, so that a slip of a caller cannot add an entry that the webhook refuses.
base::Result<std::string> digest(std::string_view text, std::string_view what, std::size_t bytes) {
  std::string normal = base::normalize_hex(text);
  const auto raw = base::from_hex(normal);
  if (!raw || raw->size() != bytes) {
    return base::fail(Code::invalid_argument, base::format("the {} is not {} hex digits", what, 2 * bytes));
  }
  return normal;
}

}  // namespace

bool FileIdentity::operator==(const FileIdentity& other) const {
  const auto equal = [](const timespec& a, const timespec& b) {
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
  };
  return device == other.device && inode == other.inode && size == other.size && mode == other.mode &&
         owner == other.owner && equal(modified, other.modified) && equal(changed, other.changed);
}

base::Result<FileIdentity> file_identity(const fs::path& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) {
    return base::fail_errno(Code::io, "cannot look at the allow-list " + path.string(), errno);
  }
  return identity_of(status);
}

base::Result<LoadedAllowlist> load_allowlist(const fs::path& path) {
  DS_TRY(const fs::path file, resolve_inside_directory(path));
  for (int attempt = 0;; ++attempt) {
    const base::Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat before = {};
    if (!fd || ::fstat(fd.get(), &before) != 0) {
      return base::fail_errno(Code::io, "cannot open the allow-list " + path.string(), errno, k_missing_fix);
    }
    DS_CHECK(check_safe(path, before));
    // A sparse file costs nothing to make: none of it is read before it is refused.
    if (is_too_large(before.st_size)) {
      return base::fail(too_large(path));
    }
    DS_TRY(const std::string text, read_all(fd.get(), path, before.st_size));
    struct stat after = {};
    if (::fstat(fd.get(), &after) != 0) {
      return base::fail_errno(Code::io, "cannot look at the allow-list " + path.string(), errno);
    }
    // Somebody edits in place instead of replacing: a torn read must not be taken for the file.
    if (!(identity_of(before) == identity_of(after)) && attempt < 5) {
      continue;
    }
    DS_TRY(Allowlist allowlist, parse_allowlist(text));
    return LoadedAllowlist{std::move(allowlist), identity_of(before)};
  }
}

base::Result<bool> AllowlistFile::create_if_missing(mode_t mode) const {
  const base::Result<bool> result = [&]() -> base::Result<bool> {
    DS_TRY(const base::FileLock lock, base::FileLock::acquire(m_path.string() + ".lock"));
    auto existing = read_for_change(m_path);
    if (existing) {
      return false;
    }
    if (existing.error().code != Code::not_found) {
      return base::fail(std::move(existing).error());
    }
    const Json empty = {
        {"osImages", Json::array()},
        {"kms", {{"mrAggregated", Json::array()}, {"devices", Json::array()}, {"allowAnyDevice", true}}},
        {"apps", Json::object()}};
    DS_CHECK(base::write_file_atomic(m_path, empty.dump(2) + "\n", {.mode = mode}));
    return true;
  }();
  if (!result) {
    return base::fail(explain(base::Error(result.error()), m_path));
  }
  return result;
}

base::Result<bool> AllowlistFile::register_app(std::string_view app_id, std::string_view compose_hash) const {
  DS_TRY(const std::string id, digest(app_id, "app id", 20));
  DS_TRY(const std::string hash, digest(compose_hash, "compose hash", 32));
  return change(m_path, [&](Json& document) {
    Json& apps = member(document, "apps", Json::value_t::object);
    auto found = find_app(apps, id);
    if (found == apps.end()) {
      apps[id] = {{"composeHashes", Json::array()}, {"devices", Json::array()}, {"allowAnyDevice", true}};
      found = find_app(apps, id);
    }
    return add_hash(member(*found, "composeHashes", Json::value_t::array), hash);
  });
}

base::Result<bool> AllowlistFile::revoke_hash(std::string_view app_id, std::string_view compose_hash) const {
  DS_TRY(const std::string id, digest(app_id, "app id", 20));
  DS_TRY(const std::string hash, digest(compose_hash, "compose hash", 32));
  return change(m_path, [&](Json& document) {
    Json& apps = member(document, "apps", Json::value_t::object);
    const auto found = find_app(apps, id);
    if (found == apps.end()) {
      return false;
    }
    Json& hashes = member(*found, "composeHashes", Json::value_t::array);
    const bool changed = remove_hash(hashes, hash);
    if (changed && hashes.empty()) {
      apps.erase(found);
    }
    return changed;
  });
}

base::Result<bool> AllowlistFile::pin_image(std::string_view os_image_hash) const {
  DS_TRY(const std::string hash, digest(os_image_hash, "OS image hash", 32));
  return change(m_path, [&](Json& document) {
    return add_hash(member(document, "osImages", Json::value_t::array), hash);
  });
}

base::Result<bool> AllowlistFile::unpin_image(std::string_view os_image_hash) const {
  DS_TRY(const std::string hash, digest(os_image_hash, "OS image hash", 32));
  return change(m_path, [&](Json& document) {
    return remove_hash(member(document, "osImages", Json::value_t::array), hash);
  });
}

base::Result<bool> AllowlistFile::allow_any_image() const {
  return change(m_path, [](Json& document) {
    Json& images = member(document, "osImages", Json::value_t::array);
    if (images.empty() && document.value("allowAnyOsImage", false)) {
      return false;
    }
    images.clear();
    document["allowAnyOsImage"] = true;
    return true;
  });
}

base::Result<bool> AllowlistFile::deny_unlisted_images() const {
  return change(m_path, [](Json& document) {
    if (!document.value("allowAnyOsImage", false)) {
      return false;
    }
    document["allowAnyOsImage"] = false;
    return true;
  });
}

base::Result<bool> AllowlistFile::set_kms_allow_any_device(bool allow) const {
  return change(m_path, [&](Json& document) {
    Json& kms = member(document, "kms", Json::value_t::object);
    if (kms.value("allowAnyDevice", false) == allow) {
      return false;
    }
    kms["allowAnyDevice"] = allow;
    return true;
  });
}

base::Result<std::vector<RegisteredApp>> AllowlistFile::apps() const {
  auto document = read_for_change(m_path);
  if (!document) {
    return base::fail(explain(std::move(document).error(), m_path));
  }
  std::vector<RegisteredApp> out;
  const Json apps = document->value("apps", Json::object());
  for (const auto& [id, app] : apps.items()) {
    out.push_back(
        {id, app.value("composeHashes", std::vector<std::string>()), app.value("allowAnyDevice", false)});
  }
  return out;
}

}  // namespace dstack::app
