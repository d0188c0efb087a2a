// What lies on the block devices: labels and magic numbers, read without trusting the contents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::guest {

inline constexpr std::string_view k_share_label = "DSTACKSHR";
inline constexpr std::string_view k_data_label = "dstack-data";

// The volume label in a FAT boot sector (at least 512 bytes), trailing spaces removed; nullopt when it is
// none.
std::optional<std::string> fat_label(base::ByteView sector);

// What the head of a disk (at least 2048 bytes) says about an ext2/3/4 file system on it.
struct ExtInfo {
  std::string label;
  bool clean = false;  // unmounted or journalled, and no error was recorded
};
std::optional<ExtInfo> ext_info(base::ByteView head);

// The root hash (64 lower hex digits) in the metadata block of a volume (spec/host.md section 2.6), which is
// the first block of its first partition; nullopt when it is none.
std::optional<std::string> volume_root(base::ByteView block);

struct BlockDevice {
  std::string name;            // "vdc"
  std::filesystem::path node;  // "/dev/vdc"
  bool read_only = false;
  std::uint64_t size = 0;                         // bytes
  std::vector<std::filesystem::path> partitions;  // "/dev/vdc1", ... by number
};
// The virtio disks (vd*) by name. `root` stands before /sys and /dev, so that a test can bring its own.
base::Result<std::vector<BlockDevice>> virtio_disks(const std::filesystem::path& root);

// The first `count` bytes, fewer on a smaller device.
base::Result<base::Bytes> read_head(const std::filesystem::path& node, std::size_t count);

}  // namespace dstack::guest
