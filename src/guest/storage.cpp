#include "guest/storage.h"

#include <sys/mount.h>

#include <algorithm>
#include <map>

#include "base/dm_verity.h"
#include "base/format.h"

namespace dstack::guest {

namespace {

using base::Code;
using base::fail;
using base::Result;
namespace fs = std::filesystem;

constexpr std::size_t k_head = 64 * 1024;

bool is_share(const fs::path& node) {
  const auto sector = read_head(node, 512);
  return sector && fat_label(*sector) == k_share_label;
}

Result<> make_file_system(const BlockDevice& disk, Runner& runner) {
  base::Command command;
  command.argv = {"mkfs.ext4",
                  "-q",
                  "-F",
                  "-L",
                  std::string(k_data_label),
                  "-m",
                  "0",
                  "-E",
                  "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
                  disk.node.string()};
  DS_TRY(const auto output, runner.run(command));
  if (output.exit_code != 0) {
    return fail(program_error(Code::data_disk, "cannot make a file system on the data disk", output));
  }
  return {};
}

Result<> check_file_system(const BlockDevice& disk, Runner& runner) {
  base::Command command;
  command.argv = {"e2fsck", "-p", disk.node.string()};
  command.timeout = std::chrono::minutes(10);
  DS_TRY(const auto output, runner.run(command));
  if (output.exit_code > 1) {  // 1: errors were corrected
    return fail(program_error(Code::data_disk, "the data disk is damaged", output));
  }
  return {};
}

}  // namespace

Result<DiskState> judge_data_disk(const BlockDevice& disk, base::ByteView head) {
  const auto refuse = [&](std::string_view why) {
    return fail(Code::data_disk, base::format("the data disk {} {}", disk.name, why),
                "attach an empty disk, or the one that this app made");
  };
  if (disk.read_only) {
    return refuse("is read-only");
  }
  if (!disk.partitions.empty()) {
    return refuse("has partitions");
  }
  if (const auto ext = ext_info(head)) {
    return ext->label == k_data_label ? Result<DiskState>(DiskState::ours)
                                      : refuse("holds a file system that is not ours");
  }
  if (head.size() < k_head) {
    return refuse("is too small");
  }
  if (std::ranges::any_of(head, [](std::uint8_t byte) { return byte != 0; })) {
    return refuse("holds something else");
  }
  return DiskState::blank;
}

Result<fs::path> find_host_share(const std::vector<BlockDevice>& disks) {
  for (const auto& disk : disks) {
    if (is_share(disk.node)) {
      return disk.node;
    }
    for (const auto& partition : disk.partitions) {
      if (is_share(partition)) {
        return partition;
      }
    }
  }
  return fail(Code::host_share, base::format("no disk has the label {}", k_share_label));
}

Result<BlockDevice> find_data_disk(const std::vector<BlockDevice>& disks) {
  const auto it = std::ranges::find(disks, "vdb", &BlockDevice::name);
  if (it == disks.end()) {
    return fail(Code::data_disk, "the VM has no data disk (vdb)");
  }
  return *it;
}

Result<bool> mount_data_disk(const BlockDevice& disk, const fs::path& target, Mounter& mounter,
                             Runner& runner) {
  DS_TRY(const auto head, read_head(disk.node, k_head));
  DS_TRY(const auto state, judge_data_disk(disk, head));
  if (state == DiskState::blank) {
    DS_CHECK(make_file_system(disk, runner));
  } else if (const auto ext = ext_info(head); ext && !ext->clean) {
    DS_CHECK(check_file_system(disk, runner));
  }
  // podman writes its store without fsync. With delayed allocation a VM that is killed soon after keeps names
  // of files whose contents are gone, and its containers never start again; without it, what is lost is only
  // the latest.
  DS_CHECK(mounter.mount({disk.node, target, "ext4", MS_NOATIME, "nodelalloc,errors=remount-ro"}));
  return state == DiskState::blank;
}

Result<VolumePartitions> find_volume(const std::vector<BlockDevice>& disks, const app::VerityVolume& volume) {
  for (const auto& disk : disks) {
    if (disk.partitions.size() < 3) {
      continue;
    }
    const auto block = read_head(disk.partitions[0], 4096);
    if (block && volume_root(*block) == volume.verity_root) {
      return VolumePartitions{disk.partitions[1], disk.partitions[2]};
    }
  }
  return fail(Code::guest_volume,
              base::format("the volume {} ({}) is not attached", volume.source, volume.verity_root));
}

Result<std::vector<fs::path>> mount_volumes(const std::vector<BlockDevice>& disks,
                                            const std::vector<app::VerityVolume>& volumes, Mounter& mounter) {
  std::map<std::string, fs::path> opened;  // root hash to device
  std::vector<fs::path> stores;
  for (const auto& volume : volumes) {
    auto device = opened.find(volume.verity_root);
    if (device == opened.end()) {
      DS_TRY(const auto partitions, find_volume(disks, volume));
      auto node =
          base::open_verity({base::format("volume-{}", volume.verity_root.substr(0, 32)),
                             partitions.data.string(), partitions.hash.string(), 0, volume.verity_root});
      if (!node) {
        auto error = std::move(node).error().wrap(base::format("cannot open the volume {}", volume.source));
        error.code = Code::guest_volume;
        return fail(std::move(error));
      }
      device = opened.emplace(volume.verity_root, *node).first;
    }
    const MountRequest request{
        device->second, volume.target, "squashfs", MS_RDONLY | MS_NODEV | MS_NOSUID, {}};
    if (auto mounted = mounter.mount(request); !mounted) {
      auto error =
          std::move(mounted).error().wrap(base::format("the volume {} cannot be used", volume.source));
      error.code = Code::guest_volume;
      return fail(std::move(error));
    }
    std::error_code ignored;
    if (fs::is_directory(fs::path(volume.target) / "overlay-images", ignored)) {
      stores.emplace_back(volume.target);
    }
  }
  return stores;
}

}  // namespace dstack::guest
