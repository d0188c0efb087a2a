// A VMM anywhere, asked whether it answers.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "cli/streams.h"

namespace dstack::dstackup {

// For `status --host`: its version and its VMs, reached as dstack would (token and pin from the environment
// or the user's known hosts). Nothing of an installation on this host is looked at.
base::Result<int> probe_vmm(const std::string& endpoint, const std::optional<std::string>& fingerprint,
                            bool json, const cli::Streams& streams);

}  // namespace dstack::dstackup
