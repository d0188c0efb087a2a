#include "vmm/vm_user.h"

#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/hash.h"

namespace dstack::vmm {

using base::Code;
using base::Result;

namespace {

bool has_capabilities(unsigned long long wanted) {
  const auto status = base::read_file("/proc/self/status", 64 * 1024).value_or("");
  constexpr std::string_view k_key = "CapEff:\t";
  const auto at = status.find(k_key);
  return at != std::string::npos &&
         (std::strtoull(status.c_str() + at + k_key.size(), nullptr, 16) & wanted) == wanted;
}

constexpr unsigned long long bit(unsigned capability) {
  return 1ULL << capability;
}

// The owners of all processes.
std::set<uid_t> users_of_processes(const fs::path& proc) {
  std::set<uid_t> out;
  std::error_code error;
  for (fs::directory_iterator it(proc, error), end; !error && it != end; it.increment(error)) {
    const auto name = it->path().filename().native();
    struct stat info{};
    if (name.find_first_not_of("0123456789") == std::string::npos && ::stat(it->path().c_str(), &info) == 0) {
      out.insert(info.st_uid);
    }
  }
  return out;
}

}  // namespace

VmUsers vm_users(bool systemd) {
  if (systemd) {
    return {true, "each VM runs as a user of its own"};
  }
  if (::geteuid() != 0) {
    return {false, base::format("VMs run as this program's user (uid {}): only root can give them others",
                                ::geteuid())};
  }
  if (!has_capabilities(bit(CAP_SETUID) | bit(CAP_SETGID) | bit(CAP_SETPCAP) | bit(CAP_KILL))) {
    return {false, "VMs run as root: this root lacks the capabilities to give them users of their own"};
  }
  return {true, "each VM runs as a user of its own"};
}

DeviceAccess device_access(const fs::path& device) {
  struct stat info{};
  if (::stat(device.c_str(), &info) != 0) {
    return {};
  }
  if ((info.st_mode & (S_IROTH | S_IWOTH)) == (S_IROTH | S_IWOTH)) {
    return {true, std::nullopt};
  }
  if ((info.st_mode & (S_IRGRP | S_IWGRP)) == (S_IRGRP | S_IWGRP) && info.st_gid != 0) {
    return {true, info.st_gid};
  }
  return {};
}

Result<base::Identity> pick_vm_user(std::string_view vm_id, bool kvm, const fs::path& proc) {
  constexpr unsigned k_count = k_last_vm_uid - k_first_vm_uid + 1;
  const auto hash = crypto::sha256(base::as_bytes(vm_id));
  const unsigned start = (hash[0] * 65536U + hash[1] * 256U + hash[2]) % k_count;
  const auto taken = users_of_processes(proc);
  for (unsigned i = 0; i < k_count; ++i) {
    const uid_t uid = k_first_vm_uid + (start + i) % k_count;
    if (taken.contains(uid) || ::getpwuid(uid) != nullptr || ::getgrgid(uid) != nullptr) {
      continue;
    }
    base::Identity out{uid, uid, {}};
    if (const auto group = device_access("/dev/kvm").group; kvm && group) {
      out.groups.push_back(*group);
    }
    return out;
  }
  return base::fail(Code::vm_start,
                    base::format("all users from {} to {} are taken", k_first_vm_uid, k_last_vm_uid),
                    "remove VMs that are not needed any more");
}

}  // namespace dstack::vmm
