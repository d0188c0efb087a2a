// Mounting, as a seam: tests record what would be mounted.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"

namespace dstack::guest {

struct MountRequest {
  std::filesystem::path source;
  std::filesystem::path target;  // made when missing
  std::string type;              // "vfat"; empty for a bind mount
  unsigned long flags = 0;       // MS_*
  std::string data;
};

class Mounter {
 public:
  virtual ~Mounter() = default;
  virtual base::Result<> mount(const MountRequest& request) = 0;
  virtual base::Result<> unmount(const std::filesystem::path& target) = 0;
};

// mount(2) and umount2(2).
class SystemMounter : public Mounter {
 public:
  base::Result<> mount(const MountRequest& request) override;
  base::Result<> unmount(const std::filesystem::path& target) override;
};

}  // namespace dstack::guest
