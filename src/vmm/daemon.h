// The VM manager as a service.
#pragma once

#include "base/result.h"
#include "vmm/config.h"

namespace dstack::vmm {

// Serves until SIGTERM or SIGINT; VMs go on. Tells the service manager when both listeners listen. One VM
// manager per run_path: a second one is Code::locked.
base::Result<> serve(const Config& config);

}  // namespace dstack::vmm
