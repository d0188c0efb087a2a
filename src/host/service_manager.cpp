#include "host/service_manager.h"

namespace dstack::host {

base::Result<std::unique_ptr<ServiceManager>> open_service_manager(const ServiceManagerOptions& options) {
  return systemd_is_running() ? make_systemd_manager(options) : make_supervisor_manager(options);
}

}  // namespace dstack::host
