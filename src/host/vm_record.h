// The processes of VMs as their manager recorded them, for when the manager itself is gone.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace dstack::host {

inline constexpr const char* k_kms_vm_name = "dstack-kms";

struct LiveVm {
  std::string id;
  pid_t pid = 0;
};

// The QEMU of `<vm directory>/qemu.json` ({"pid", "start_time", "boot_id"}) if that very process still runs.
std::optional<LiveVm> read_live_vm(const std::filesystem::path& vm_directory);
// Of all directories below `vms`.
std::vector<LiveVm> live_vms(const std::filesystem::path& vms);
// The digest of the guest image that the VM was started with the last time, as its manager wrote it for the
// guest;
// "" when that cannot be read. The image of that name may be another by now.
std::string started_image_hash(const std::filesystem::path& vm_directory);
// The name in the VM's manifest; "" when that cannot be read.
std::string vm_name(const std::filesystem::path& vm_directory);
// SIGTERM, after `grace` SIGKILL; waits. Only processes that are still the recorded ones are touched.
base::Result<> kill_vms(const std::filesystem::path& vms,
                        std::chrono::milliseconds grace = std::chrono::milliseconds(500));

}  // namespace dstack::host
