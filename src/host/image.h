// Guest image directories (spec/host.md section 4.19): `<images>/<name>/` with metadata.json and what it
// names.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Result;

// File names in an image directory made here.
inline constexpr const char* k_image_kernel = "bzImage";
inline constexpr const char* k_image_vmlinux = "vmlinux";
inline constexpr const char* k_image_initrd = "initramfs.cpio.gz";
inline constexpr const char* k_image_rootfs = "rootfs.img.parted.verity";
inline constexpr const char* k_image_metadata = "metadata.json";
inline constexpr const char* k_image_sums = "sha256sum.txt";
inline constexpr const char* k_image_digest = "digest.txt";
inline constexpr const char* k_image_packages = "packages.txt";

// metadata.json; absent and null optional keys are empty.
struct ImageMetadata {
  std::string cmdline;
  std::string kernel;
  std::optional<std::string>
      vmlinux;  // the same kernel unpacked, for PVH boot; only images made here have it
  std::string initrd;
  std::optional<std::string> hda;
  std::optional<std::string> rootfs;
  std::optional<std::string> bios;
  std::optional<std::string> bios_sev;
  std::string rootfs_hash;
  std::string version;
  std::string git_revision;
  bool shared_ro = false;
  bool is_dev = false;
  std::optional<std::string> ovmf_variant;
};

// Total: any text gives a value or Code::parse.
Result<ImageMetadata> parse_image_metadata(std::string_view json);

// An image whose named artifacts exist. Paths are canonical and inside the image directory.
struct Image {
  std::string name;
  fs::path directory;
  ImageMetadata metadata;
  fs::path kernel;
  std::optional<fs::path> vmlinux;
  fs::path initrd;
  std::optional<fs::path> rootfs;
  std::optional<fs::path> bios;
  std::optional<fs::path> bios_sev;
  // Lower-case hex of digest.txt; empty when there is no such file.
  std::string os_image_hash;
};

// Non-empty, not "." or "..", no leading dot, no '/', '\\', control character, ',' or '='.
Result<> check_image_name(std::string_view name);

// Reads metadata.json and resolves its artifacts; each must be a regular file inside `directory`. Does not
// hash.
Result<Image> load_image(const fs::path& directory);
// load_image(images/name) after check_image_name(); Code::image_not_found names the images that there are.
Result<Image> find_image(const fs::path& images, std::string_view name);
// Sub-directories with a metadata.json that load, by modification time, newest last. A missing directory is
// empty. Directories that do not load are described in `broken` when given.
Result<std::vector<Image>> list_images(const fs::path& images, std::vector<std::string>* broken = nullptr);

// digest.txt is the sha256 of sha256sum.txt, every file listed there has its sum, and kernel, initrd and
// metadata.json are listed. Code::image_corrupt says which file differs. The root disk is bound through its
// verity root hash.
Result<> verify_image_digest(const Image& image);

// Removes `<images>/<name>`.
Result<> remove_image(const fs::path& images, std::string_view name);

// First three dot parts as numbers ("0.6.0.a2" -> 0,6,0); nullopt when they are not.
struct ImageVersion {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned patch = 0;
};
std::optional<ImageVersion> parse_image_version(std::string_view text);

}  // namespace dstack::host
