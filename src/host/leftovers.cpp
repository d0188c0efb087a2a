#include "host/leftovers.h"

#include <thread>

#include "host/ports.h"
#include "host/supervised_processes.h"

namespace dstack::host {

namespace {

bool held_by_a_leftover(std::uint16_t port) {
  const auto free = port_is_free("127.0.0.1", port);
  return port != 0 && free && !*free && who_listens(port).value_or("").starts_with("dstack-");
}

}  // namespace

void wait_for_leftovers(const Layout& layout, const InstallState& state, ServiceManager& services,
                        std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  const auto wait = [&](const std::string& unit, std::uint16_t port) {
    const auto status = services.status(unit);
    if (!status || (status->state != ServiceState::unknown && status->state != ServiceState::stopped)) {
      return;
    }
    while (held_by_a_leftover(port) && std::chrono::steady_clock::now() < end) {
      if (!find_supervised(layout).empty()) {
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  };
  wait(state.auth_unit, state.auth_port);
  wait(state.vmm_unit, state.dashboard_port());
  wait(state.vmm_unit, state.host_api_port);
}

}  // namespace dstack::host
