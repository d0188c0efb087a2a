// The kernel command line.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dstack::base {

// The value of `key` ("dstack.rootfs_hash"); the last one wins, a bare key has the empty value. Double quotes
// around a value or a word are taken off, as the kernel does.
std::optional<std::string> cmdline_value(std::string_view cmdline, std::string_view key);

// /proc/cmdline without the line end.
Result<std::string> read_kernel_cmdline();

}  // namespace dstack::base
