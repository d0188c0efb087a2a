// The allow-list on disk: safe reading for the webhook, locked and atomic changes for the clients
// (spec/host.md section 2.8).
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "app/allowlist.h"
#include "base/result.h"

namespace dstack::app {

// Changes whenever the file's content may have.
struct FileIdentity {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  mode_t mode = 0;
  uid_t owner = 0;
  timespec modified{};
  timespec changed{};
  bool operator==(const FileIdentity& other) const;
};
// Follows a symlink. Code::not_found, permission or io.
base::Result<FileIdentity> file_identity(const std::filesystem::path& path);

struct LoadedAllowlist {
  Allowlist allowlist;
  FileIdentity identity;  // of the bytes that were parsed
};
// Reads and parses for a decision. Refused with Code::unsafe_allowlist: a symlink out of its directory,
// anything but a regular file, group- or world-writable, owned by neither root nor the effective user.
base::Result<LoadedAllowlist> load_allowlist(const std::filesystem::path& path);

struct RegisteredApp {
  std::string app_id;  // as written in the file
  std::vector<std::string> compose_hashes;
  bool allow_any_device = false;
};

// Each change: exclusive flock on "<path>.lock", read, merge, atomic replace with mode and owner kept; a
// symlink is refused; unknown keys and all other entries stay. Each returns whether the file changed. Errors:
// Code::not_found
// ("run dstackup install"), Code::permission ("use sudo"), Code::bad_allowlist (corrupt; nothing was
// written).
class AllowlistFile {
 public:
  explicit AllowlistFile(std::filesystem::path path) : m_path(std::move(path)) {}
  const std::filesystem::path& path() const { return m_path; }

  // Writes an allow-list that allows nothing unless there is a file, which must then be readable and valid.
  base::Result<bool> create_if_missing(mode_t mode = 0644) const;

  base::Result<bool> register_app(std::string_view app_id, std::string_view compose_hash) const;
  // Takes one hash back; the app's entry goes when it was the last one.
  base::Result<bool> revoke_hash(std::string_view app_id, std::string_view compose_hash) const;

  base::Result<bool> pin_image(std::string_view os_image_hash) const;
  base::Result<bool> unpin_image(std::string_view os_image_hash) const;
  // Any OS image passes from now on. A list that names some would still count, so it is emptied.
  base::Result<bool> allow_any_image() const;
  // The reverse but for the list: only the images that it names pass.
  base::Result<bool> deny_unlisted_images() const;
  base::Result<bool> set_kms_allow_any_device(bool allow) const;

  base::Result<std::vector<RegisteredApp>> apps() const;

 private:
  std::filesystem::path m_path;
};

}  // namespace dstack::app
