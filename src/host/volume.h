// Read-only volumes bound by dm-verity (spec/host.md section 2.6), and the index of those that hold container
// images.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Result;

enum class VolumeCompression { none, lz4, gzip, zstd };
// "none", "lz4", "gzip", "zstd".
std::optional<VolumeCompression> parse_volume_compression(std::string_view text);

struct VolumeBuild {
  std::string verity_root;  // 64 lower-case hex digits
  fs::path output;
  std::uint64_t data_size = 0;    // bytes of the data partition, a multiple of 4096
  std::uint64_t volume_size = 0;  // bytes of the whole disk image
};

// squashfs of `directory`, its dm-verity tree, and a GPT disk around both, written to `output` by rename. The
// same tree gives the same bytes. Needs mksquashfs and veritysetup.
Result<VolumeBuild> build_volume(const fs::path& directory, const fs::path& output,
                                 VolumeCompression compression = VolumeCompression::zstd);
// The same around a ready file system image (squashfs: its own length counts, else the file's).
Result<VolumeBuild> build_volume_from_image(const fs::path& file_system, const fs::path& output);

// The hex after "Root hash:" in what `veritysetup format` prints.
Result<std::string> root_hash_in(std::string_view veritysetup_output);

// The partition table of a volume, as bytes; pure, for tests and readers.
struct VolumeLayout {
  std::uint64_t data_lba = 0;
  std::uint64_t data_sectors = 0;
  std::uint64_t hash_lba = 0;
  std::uint64_t hash_sectors = 0;
  std::uint64_t total_sectors = 0;
  base::Bytes head;  // from LBA 0 up to and including the metadata partition's block
  base::Bytes tail;  // the secondary table, ends the disk
};
VolumeLayout lay_out_volume(const std::string& verity_root, std::uint64_t data_bytes,
                            std::uint64_t hash_bytes);

// The verity root in the metadata block of a volume file; Code::volume_corrupt when it is not a volume.
Result<std::string> read_volume_root(const fs::path& file);

// One volume that the host keeps: `<state>/volumes/<file>`.
struct VolumeEntry {
  std::string name;
  std::string file;                 // bare file name, "<name>.img"; what verity_volumes[].source holds
  std::string verity_root;          // hex
  std::vector<std::string> images;  // normalised references it holds, "localhost/hello-nginx:latest"
  std::string archive_sha256;       // of what it was made from
};

// "nginx" -> "docker.io/library/nginx:latest", "localhost/x" -> "localhost/x:latest"; a digest reference
// stays.
std::string normalize_image_reference(std::string_view reference);

// `<state>/volumes/index.json`.
class VolumeIndex {
 public:
  // A missing file is an empty index; a malformed one is Code::parse.
  static Result<VolumeIndex> load(const fs::path& state_directory);

  const std::vector<VolumeEntry>& entries() const { return m_entries; }
  const VolumeEntry* find(std::string_view name) const;
  // The volume that holds this image; both sides are normalised, the last one added wins.
  const VolumeEntry* find_by_image(std::string_view reference) const;
  fs::path path_of(const VolumeEntry& entry) const { return m_directory / entry.file; }

 private:
  friend Result<VolumeEntry> add_image_volume(const fs::path&, const struct AddVolume&);
  friend Result<> remove_volume(const fs::path&, std::string_view);
  Result<> save() const;

  fs::path m_directory;
  std::vector<VolumeEntry> m_entries;
};

// Directory of the volumes below a state directory: `<state>/volumes`.
fs::path volumes_directory(const fs::path& state_directory);

// Called with one line per finished stage.
using StageReport = std::function<void(std::string_view line)>;

struct AddVolume {
  fs::path archive;  // docker-archive or OCI archive, optionally compressed
  std::string name;  // empty = from the first image's name
  VolumeCompression compression = VolumeCompression::lz4;
  bool replace = false;  // an existing volume of that name with other content is otherwise an error
  StageReport report;
};
// Image archive -> containers-storage store -> volume -> index. Running it again with the same archive
// changes nothing.
Result<VolumeEntry> add_image_volume(const fs::path& state_directory, const AddVolume& what);
// Removes file and entry; Code::not_found when there is no such volume.
Result<> remove_volume(const fs::path& state_directory, std::string_view name);

}  // namespace dstack::host
