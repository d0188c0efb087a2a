// Who needs a guest image: the installation that pins it and the VMs that boot it; and putting another in its
// place.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "host/layout.h"
#include "host/state.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Result;

// The record of the installation, else of the one that destroy left, else an empty one.
Result<InstallState> last_known_state(const Layout& layout);
// Where the installation has its images, which install's --image-path may have chosen.
fs::path image_directory(const InstallState& state, const Layout& layout);
// Also when the paths are written differently, or one leads through links.
bool same_directory(const fs::path& a, const fs::path& b);

// What an installation needs of one directory of images; empty for a directory that is not its own.
struct ImageUse {
  std::string pinned_name;
  std::string pinned_hash;  // "" = any image of that name
  bool taken_down = false;  // by destroy without --purge; the next install goes on with the image
  fs::path vms;             // VMs' directories; "" = none
};
ImageUse image_use(const InstallState& state, const Layout& layout, const fs::path& images);

// Names of the VMs below `vms` (their manifests) that use the image.
std::vector<std::string> vms_with_image(const fs::path& vms, const std::string& image);
// "the installation pins it", "VMs use it: a, b"; "" when nobody does.
std::string who_needs(const ImageUse& use, const std::string& name);
// Code::image_in_use with the way to let go when somebody needs it.
Result<> check_removal(const ImageUse& use, const std::string& name);
// Code::image_in_use when an image of the digest `hash` at `<images>/<name>` would not be the one that is
// pinned, or would replace another one that somebody needs. One that cannot be loaded is nobody's loss. `fix`
// is the error's.
Result<> check_replacement(const ImageUse& use, const fs::path& images, const std::string& name,
                           const std::string& hash, std::string_view fix);

// Gives the directory `from` the name `to` in one step, after all of it is on the disk. With `replace`, what
// was at `to` is at `from` afterwards; without it, or where the file system cannot exchange two names,
// anything at `to` is Code::image_invalid and both stay.
Result<> adopt_directory(const fs::path& from, const fs::path& to, bool replace);

}  // namespace dstack::host
