#include "guest/mounts.h"

#include <sys/mount.h>

#include <cerrno>

#include "base/format.h"
#include "base/fs.h"

namespace dstack::guest {

using base::Code;
using base::Result;

Result<> SystemMounter::mount(const MountRequest& request) {
  if (auto made = base::make_dirs(request.target); !made) {
    return base::fail(std::move(made).error(),
                      base::format("there is no place to mount {}", request.target.string()));
  }
  const auto* type = request.type.empty() ? nullptr : request.type.c_str();
  const auto* data = request.data.empty() ? nullptr : request.data.c_str();
  if (::mount(request.source.c_str(), request.target.c_str(), type, request.flags, data) != 0) {
    return base::fail_errno(
        Code::guest_setup,
        base::format("cannot mount {} on {}", request.source.string(), request.target.string()), errno);
  }
  return {};
}

Result<> SystemMounter::unmount(const std::filesystem::path& target) {
  if (::umount2(target.c_str(), UMOUNT_NOFOLLOW) != 0) {
    return base::fail_errno(Code::guest_setup, base::format("cannot unmount {}", target.string()), errno);
  }
  return {};
}

}  // namespace dstack::guest
