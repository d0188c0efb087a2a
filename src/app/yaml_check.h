// The checks of a YAML text that must come before a tree is built from it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dstack::app {

// Exactly one document, no key twice in a mapping, keys are scalars, no alias to an enclosing node, and at
// most `max_nodes` nodes once aliases are expanded. Errors (Code::parse) read "<name>:<line>:<column>: ...".
base::Result<> check_yaml(const std::string& text, std::string_view name, std::size_t max_nodes);

}  // namespace dstack::app
