// The service side of systemd's NOTIFY_SOCKET protocol (sd_notify(3)). Without NOTIFY_SOCKET each call does
// nothing.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::base {

// After bind and listen: READY=1 with a status text.
void notify_ready(std::string_view status);
void notify_stopping();
// Before exiting with an error: STATUS=<error, fix> and ERRNO=, so that the service manager can tell the
// reason.
void notify_failed(const Error& error, int error_number = 0);

// Sockets that the service manager has opened for this process (sd_listen_fds(3)), close-on-exec; usually
// none. The environment variables are removed, so that children do not take them as theirs.
std::vector<int> inherited_sockets();

}  // namespace dstack::base
