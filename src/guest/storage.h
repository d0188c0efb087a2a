// Disks of an app: its data disk and the read-only volumes that its app-compose names.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "app/app_compose.h"
#include "base/result.h"
#include "guest/block.h"
#include "guest/mounts.h"
#include "guest/runner.h"

namespace dstack::guest {

enum class DiskState { blank, ours };
// What may be done with the disk whose first bytes are `head` (64 KiB): an empty one is initialised, one of
// ours is used, and anything else is refused rather than overwritten. Code::data_disk.
base::Result<DiskState> judge_data_disk(const BlockDevice& disk, base::ByteView head);

// The host share: the disk (or a partition of one) with FAT label DSTACKSHR.
base::Result<std::filesystem::path> find_host_share(const std::vector<BlockDevice>& disks);

// The data disk is the second virtio disk, "vdb".
base::Result<BlockDevice> find_data_disk(const std::vector<BlockDevice>& disks);

// Makes the ext4 file system on a blank disk, checks one that was not unmounted well, mounts it at `target`.
// Returns whether it was blank. The disk is not encrypted.
base::Result<bool> mount_data_disk(const BlockDevice& disk, const std::filesystem::path& target,
                                   Mounter& mounter, Runner& runner);

struct VolumePartitions {
  std::filesystem::path data;
  std::filesystem::path hash;
};
// Looks for the volume by the root hash in its metadata partition. That hash only finds the disk; what is
// read from it is checked against the one in the app-compose. Code::guest_volume.
base::Result<VolumePartitions> find_volume(const std::vector<BlockDevice>& disks,
                                           const app::VerityVolume& volume);

// Opens and mounts every volume read-only at its target; one that is named twice is opened once. Returns the
// targets that hold container images (a directory "overlay-images").
base::Result<std::vector<std::filesystem::path>> mount_volumes(const std::vector<BlockDevice>& disks,
                                                               const std::vector<app::VerityVolume>& volumes,
                                                               Mounter& mounter);

}  // namespace dstack::guest
