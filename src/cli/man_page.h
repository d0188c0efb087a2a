// Man pages made from a program's description.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/description.h"

namespace dstack::cli {

// File names ("dstackup-image-pull.1") and contents: one page for the program and one for each verb.
std::vector<std::pair<std::string, std::string>> man_pages(const Description& program);

// Writes them into a directory, which is made when it is missing.
base::Result<> write_man_pages(const Description& program, const std::filesystem::path& directory);

}  // namespace dstack::cli
