// The services of an installation as its record describes them.
#pragma once

#include <string>

#include "base/result.h"
#include "host/layout.h"
#include "host/service_manager.h"
#include "host/state.h"

namespace dstack::host {

// What a service reads when it starts is part of its definition, so that the manager sees that a running one
// has read something else, also when the install that changed it did not come as far as restarting it: the
// file of a program that is run as it is, and for the VMM its configuration, token and certificate.
ServiceSpec installed_auth_service(const Layout& layout, const InstallState& state);
base::Result<ServiceSpec> installed_vmm_service(const Layout& layout, const InstallState& state,
                                                const std::string& configuration);

}  // namespace dstack::host
