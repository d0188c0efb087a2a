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

// The last lines that one failed start of a unit wrote itself. Waits up to `patience` for journald to take in
// what it was sent.
std::vector<std::string> failed_start_log(const std::string& unit, const std::string& invocation,
                                          std::size_t limit, std::chrono::milliseconds patience);

}  // namespace dstack::host
