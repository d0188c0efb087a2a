// Does something behind a forwarded port answer?
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dstack::client {

// QEMU's user-mode network accepts a connection before the guest does, and closes it when nothing listens
// there. So a port answers when the connection is still open after `hold`, or data came. 0.0.0.0 is tried as
// 127.0.0.1.
bool port_answers(const std::string& address, std::uint16_t port,
                  std::chrono::milliseconds hold = std::chrono::milliseconds(500),
                  std::chrono::milliseconds connect_timeout = std::chrono::milliseconds(2000));

}  // namespace dstack::client
