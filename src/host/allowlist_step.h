// The step of install that writes the allow-list: which guest images may have keys.
#pragma once

#include "host/install_steps.h"

namespace dstack::host {

InstallStep allowlist_step(InstallContext& context);

// Adds to the plan what becomes of the digest that was pinned before, and says so when VMs keep it.
void settle_former_pin(const InstallFacts& facts, InstallPlan& plan);

}  // namespace dstack::host
