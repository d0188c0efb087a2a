// base::format("{} of {}", a, b): fmt, checked at compile time.
#pragma once

#include <fmt/core.h>

namespace dstack::base {
using fmt::format;
}
