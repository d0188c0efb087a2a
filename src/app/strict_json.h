// JSON as this project reads it from others: bounded depth, no key twice, nothing after the value. Callers
// include <nlohmann/json.hpp> themselves.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "base/result.h"

namespace dstack::app {

struct JsonLimits {
  std::size_t max_bytes = 16 * 1024 * 1024;
  int max_depth = 64;
};

// Keeps the order of keys. Code::too_large or Code::parse with line and column.
base::Result<nlohmann::ordered_json> parse_json_strict(std::string_view text, JsonLimits limits = {});

}  // namespace dstack::app
