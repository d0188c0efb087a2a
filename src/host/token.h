// The file of the VMM's token.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"

namespace dstack::host {

// Without the white space around it. Code::not_found or permission; Code::parse for what is no token:
// nothing, or characters that an HTTP header cannot carry. The error names the file and what to do.
base::Result<std::string> read_token(const std::filesystem::path& path);

}  // namespace dstack::host
