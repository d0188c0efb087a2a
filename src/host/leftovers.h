// Services that are on their way out because their supervisor was killed.
#pragma once

#include <chrono>

#include "host/service_manager.h"
#include "host/state.h"

namespace dstack::host {

// A supervisor that dies takes its services along, which takes them a moment. Waits until those that nobody
// runs any more have left the ports that the record gives them; at once when there are none, and when they
// are known to be ours (find_supervised()): these are ended before others are started.
void wait_for_leftovers(const Layout& layout, const InstallState& state, ServiceManager& services,
                        std::chrono::milliseconds limit = std::chrono::seconds(5));

}  // namespace dstack::host
