#include "bin/dstack/vm_json.h"

#include <nlohmann/json.hpp>

namespace dstack::dstack_cli {

nlohmann::ordered_json ports_to_json(const ::vmm::VmConfiguration& configuration) {
  auto out = nlohmann::ordered_json::array();
  for (const auto& port : configuration.ports()) {
    out.push_back({{"vmPort", port.vm_port()},
                   {"hostPort", port.host_port()},
                   {"hostAddress", port.host_address()},
                   {"protocol", port.protocol()}});
  }
  return out;
}

}  // namespace dstack::dstack_cli
