// Text that others read as UTF-8.
#pragma once

#include <string_view>

namespace dstack::base {

// Well-formed as in RFC 3629: shortest forms only, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace dstack::base
