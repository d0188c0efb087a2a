// Who could put something else at a path: its directories' owners and modes, as sshd and sudo look at them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace dstack::base {

struct Untrusted {
  std::filesystem::path directory;
  std::string why;  // "can be changed by everybody (mode 777)"
  std::string fix;
};

// Whether only root and the effective user decide what is at `path`, a directory: it and each directory above
// it, also on the way through links, belong to one of the two and others cannot write there. A sticky one
// such as /tmp will do above: nobody can rename what is another's there. What is not there yet is not looked
// at.
std::optional<Untrusted> find_untrusted_directory(const std::filesystem::path& path);
// The same for the directory of a file that is there and belongs to one of the two: it too may be sticky.
// Only that directory is looked at.
std::optional<Untrusted> find_untrusted_parent(const std::filesystem::path& file);

}  // namespace dstack::base
