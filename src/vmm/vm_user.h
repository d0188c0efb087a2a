// The user that a VM's process runs as.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/process.h"
#include "base/result.h"

namespace dstack::vmm {

namespace fs = std::filesystem;

// The range that systemd takes its dynamic users from, so that nobody else owns anything there.
inline constexpr uid_t k_first_vm_uid = 61184;
inline constexpr uid_t k_last_vm_uid = 65519;

// Whether each VM can have a user of its own, else it runs as this process's.
struct VmUsers {
  bool separate = false;
  std::string description;  // for logs and status
};
VmUsers vm_users(bool systemd);

// A user that neither the host's database nor any process has, with the group that owns /dev/kvm when `kvm`.
// No file is ever owned by it, so it can be another one at the next start. Code::vm_start when all are taken.
base::Result<base::Identity> pick_vm_user(std::string_view vm_id, bool kvm, const fs::path& proc = "/proc");

// How users other than root get at a device: by what everybody may, or by its group.
struct DeviceAccess {
  bool open = false;
  std::optional<gid_t> group;
};
DeviceAccess device_access(const fs::path& device);

}  // namespace dstack::vmm
