#include "host/image_use.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/image.h"

namespace dstack::host {

using base::Code;
using base::Error;
using base::format;

namespace {

bool is_there(const fs::path& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0;
}

std::unexpected<Error> taken(const fs::path& to, std::string cause = {}) {
  return base::fail(Error{Code::image_invalid, to.string() + " is there already", std::move(cause),
                          "remove it or move it away first"});
}

}  // namespace

Result<InstallState> last_known_state(const Layout& layout) {
  DS_TRY(auto state, load_state(layout.state_file()));
  if (!state) {
    DS_TRY(state, load_state(layout.last_state_file()));
  }
  return std::move(state).value_or(InstallState{});
}

fs::path image_directory(const InstallState& state, const Layout& layout) {
  return installed_layout(layout, state).images();
}

bool same_directory(const fs::path& a, const fs::path& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) {
    return true;
  }
  // Neither need be there. The empty last segment makes the trailing slash the same.
  return (a / "").lexically_normal() == (b / "").lexically_normal();
}

ImageUse image_use(const InstallState& state, const Layout& layout, const fs::path& images) {
  if (!same_directory(images, image_directory(state, layout))) {
    return {};
  }
  return {state.image.value_or(""), state.os_image_hash, !is_there(layout.state_file()), layout.vms()};
}

std::vector<std::string> vms_with_image(const fs::path& vms, const std::string& image) {
  std::vector<std::string> out;
  std::error_code error;
  for (fs::directory_iterator it(vms, error), end; !error && it != end; it.increment(error)) {
    const auto text = base::read_file(it->path() / "vm-manifest.json");
    const auto json = nlohmann::json::parse(text ? *text : "", nullptr, false);
    if (json.is_object() && json.contains("image") && json["image"].is_string() &&
        json["image"].get<std::string>() == image) {
      const auto name = json.find("name");
      out.push_back(name != json.end() && name->is_string() ? name->get<std::string>()
                                                            : it->path().filename().string());
    }
  }
  std::ranges::sort(out);
  return out;
}

std::string who_needs(const ImageUse& use, const std::string& name) {
  if (!use.pinned_name.empty() && use.pinned_name == name) {
    return use.taken_down
               ? "the installation that was taken down pins it, and 'dstackup install' goes on with it"
               : "the installation pins it";
  }
  const auto vms = use.vms.empty() ? std::vector<std::string>() : vms_with_image(use.vms, name);
  std::string out;
  for (std::size_t i = 0; i < std::min<std::size_t>(vms.size(), 5); ++i) {
    out += (i == 0 ? "VMs use it: " : ", ") + vms[i];
  }
  return out;
}

Result<> check_removal(const ImageUse& use, const std::string& name) {
  auto why = who_needs(use, name);
  if (why.empty()) {
    return {};
  }
  const bool kept = use.taken_down && use.pinned_name == name;
  return base::fail(
      Error{Code::image_in_use, format("the image {} was not removed", name), std::move(why),
            kept ? "let it go with 'dstackup destroy --purge', which removes all that was kept, or "
                   "remove this image alone with --force"
                 : "remove what uses it first, or remove the image all the same with --force"});
}

Result<> check_replacement(const ImageUse& use, const fs::path& images, const std::string& name,
                           const std::string& hash, std::string_view fix) {
  const auto refuse = [&](std::string message, std::string cause) {
    return base::fail(Error{Code::image_in_use, std::move(message), std::move(cause), std::string(fix)});
  };
  const auto shown = hash.empty() ? std::string("none") : hash;
  if (!use.pinned_name.empty() && use.pinned_name == name && !use.pinned_hash.empty()) {
    return hash == use.pinned_hash
               ? Result<>()
               : refuse(format("{} is pinned, and this is another image of that name", name),
                        format("its digest is {}, the pin is {}", shown, use.pinned_hash));
  }
  const auto existing = load_image(images / name);
  if (!existing || (!hash.empty() && existing->os_image_hash == hash)) {
    return {};
  }
  const auto why = who_needs(use, name);
  return why.empty() ? Result<>()
                     : refuse(format("{} is in use, and this is another image of that name", name),
                              format("its digest is {}; {}", shown, why));
}

Result<> adopt_directory(const fs::path& from, const fs::path& to, bool replace) {
  const base::Fd source(::open(from.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // All of the file system, since files far down may have been written by other programs.
  if (!source || ::syncfs(source.get()) != 0) {
    return base::fail_errno(Code::io, "cannot sync " + from.string(), errno);
  }
  int result = ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE);
  if (result != 0 && errno == EINVAL && !is_there(to)) {
    // A file system that knows only plain renames.
    result = ::rename(from.c_str(), to.c_str());
  }
  if (result != 0 && is_there(to)) {
    if (!replace) {
      return taken(to);
    }
    result = ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE);
    if (result != 0 && errno == EINVAL) {
      return taken(to, "its file system cannot replace a directory in one step");
    }
  }
  if (result != 0) {
    return base::fail_errno(Code::io, "cannot put the image at " + to.string(), errno);
  }
  const base::Fd parent(::open(to.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) {
    return base::fail_errno(Code::io, "cannot sync " + to.parent_path().string(), errno);
  }
  return {};
}

}  // namespace dstack::host
