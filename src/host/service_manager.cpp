#include "host/service_manager.h"

#include <sys/stat.h>

#include "base/fs.h"

namespace dstack::host {

bool systemd_is_running() {
  struct stat info = {};
  if (::lstat("/run/systemd/system", &info) != 0 || !S_ISDIR(info.st_mode)) {
    return false;
  }
  // A sandbox (ProtectProc=) may hide PID 1; then the directory, which systemd makes at boot, has to do.
  const auto name = base::read_file("/proc/1/comm", 64);
  return !name || *name == "systemd\n";
}

base::Result<std::unique_ptr<ServiceManager>> open_service_manager(const ServiceManagerOptions& options) {
  return systemd_is_running() ? make_systemd_manager(options) : make_supervisor_manager(options);
}

}  // namespace dstack::host
