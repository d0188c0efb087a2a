// The supervisor's loop: services, clients, signals.
#pragma once

#include <optional>

#include "base/fd.h"
#include "base/fs.h"
#include "base/result.h"
#include "host/supervisor.h"
#include "host/supervisor_handover.h"

namespace dstack::host {

// The listening socket with the lock that makes this the only supervisor there.
struct SupervisorSeat {
  base::FileLock lock;
  base::Fd control;
};

// Serves from this seat until shut_down or SIGTERM, then stops all services and leaves it. `memory` is what
// the supervisor of before handed over.
base::Result<> serve_supervised(const SupervisorOptions& options, SupervisorSeat seat,
                                std::optional<SupervisorMemory> memory = {});

}  // namespace dstack::host
