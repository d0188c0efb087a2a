// The service side of systemd's NOTIFY_SOCKET protocol (sd_notify(3)). Without NOTIFY_SOCKET each call does
// nothing.
#pragma once

#include <string_view>

#include "base/result.h"

namespace dstack::base {

// After bind and listen: READY=1 with a status text.
void notify_ready(std::string_view status);
void notify_stopping();
// Before exiting with an error: STATUS=<error, fix> and ERRNO=, so that the service manager can tell the
// reason.
void notify_failed(const Error& error, int error_number = 0);

}  // namespace dstack::base
