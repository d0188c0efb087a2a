// The allow-list and its decisions in words, for people.
#pragma once

#include <string>

#include "app/allowlist.h"
#include "app/decision.h"

namespace dstack::auth {

// What the file allows, line by line, with what is likely to be a mistake.
std::string describe(const app::Allowlist& allowlist);

// The verdict and the rule that made it, as Webhook would answer.
std::string explain(const app::Allowlist& allowlist, const app::BootInfo& boot, bool kms);

}  // namespace dstack::auth
