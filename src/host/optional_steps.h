// Steps of install that only some installations have.
#pragma once

#include "host/install_steps.h"

namespace dstack::host {

// Key and certificate of the address on which the VMM's API is exposed. Needs plan.expose.
InstallStep expose_step(InstallContext& context);
// The SGX key provider, started with docker compose. Needs plan.key_provider.project.
InstallStep key_provider_step(InstallContext& context);

}  // namespace dstack::host
