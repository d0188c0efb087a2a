// --port. What is accepted reads the same when it is written out in full.
#include "app/port_spec.h"

#include <string>

#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto port = app::parse_port_spec(fuzz::text(data, size));
  if (!port) {
    return 0;
  }
  FUZZ_EXPECT(port->protocol == "tcp" || port->protocol == "udp");
  FUZZ_EXPECT(port->vm_port != 0);
  const bool v6 = port->host_address.find(':') != std::string::npos;
  if (!v6) {
    const auto again =
        app::parse_port_spec(port->protocol + ':' + port->host_address + ':' +
                             std::to_string(port->host_port) + ':' + std::to_string(port->vm_port));
    FUZZ_EXPECT(again && *again == *port);
  }
  FUZZ_EXPECT(app::check_port_conflicts({*port}));
  return 0;
}
