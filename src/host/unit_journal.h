// A unit's lines in systemd's journal.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "base/result.h"

namespace dstack::host {

// The last `limit` lines, oldest first, of a unit ("x.service") and of what systemd itself says about it.
// Control characters are escaped.
base::Result<std::vector<std::string>> unit_log(const std::string& unit, std::size_t limit);

// The last lines that one failed start of a unit wrote itself. Lines reach the journal a little after the
// start is known to have failed: waits up to `patience` for systemd's own line about it.
std::vector<std::string> failed_start_log(const std::string& unit, const std::string& invocation,
                                          std::size_t limit, std::chrono::milliseconds patience);

}  // namespace dstack::host
