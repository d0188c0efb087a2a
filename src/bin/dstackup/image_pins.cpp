#include "image_pins.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <ostream>

#include "app/allowlist_file.h"
#include "base/bytes.h"
#include "base/format.h"
#include "host/image.h"
#include "host/image_use.h"
#include "verb_action.h"

namespace dstack::dstackup {

using base::Code;
using base::format;
using base::Result;

namespace {

struct Options {
  std::optional<std::string> prefix;
  std::vector<std::string> names;
  bool force = false;
};

struct Pin {
  std::string name;  // as given
  std::string hash;
};

// A name of an image that is here, or a digest.
Result<Pin> resolve(const std::string& name, const std::filesystem::path& images) {
  const auto hash = base::normalize_hex(name);
  if (hash.size() == 64 && base::from_hex(hash)) {
    return Pin{name, hash};
  }
  auto image = host::find_image(images, name);
  if (!image) {
    auto error = std::move(image).error();
    error.fix = "name its digest instead; 'dstackup image list' shows those that the allow-list has";
    return base::fail(std::move(error));
  }
  if (image->os_image_hash.empty()) {
    return base::fail(Code::image_unpinned, format("the guest image {} has no digest", name),
                      "so it is not in the allow-list either; see 'dstackup image list'");
  }
  return Pin{name, image->os_image_hash};
}

std::string users_of(const std::string& hash, const host::Layout& layout,
                     const std::filesystem::path& images) {
  std::string out;
  for (const auto& image : host::list_images(images).value_or(std::vector<host::Image>())) {
    if (image.os_image_hash != hash) {
      continue;
    }
    for (const auto& vm : host::vms_with_image(layout.vms(), image.name)) {
      out += (out.empty() ? "" : ", ") + vm;
    }
  }
  return out;
}

Result<> check_unused(const Pin& pin, const host::InstallState& state, const host::Layout& layout,
                      const std::filesystem::path& images) {
  const auto message = format("{} stays in the allow-list", pin.name);
  if (pin.hash == state.os_image_hash) {
    return base::fail(base::Error{Code::image_in_use, message, "it is the installation's own guest image",
                                  "choose another with 'dstackup install --image NAME' first"});
  }
  const auto users = users_of(pin.hash, layout, images);
  return users.empty() ? Result<>()
                       : base::fail(base::Error{Code::image_in_use, message, "VMs use it: " + users,
                                                "remove them first, or use --force: they get no keys at "
                                                "their next start"});
}

Result<int> unpin(const Options& options, const cli::Streams& streams) {
  DS_CHECK(need_root("image unpin"));
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto state, host::last_known_state(layout));
  const auto images = host::image_directory(state, layout);
  std::vector<Pin> pins;
  for (const auto& name : options.names) {
    DS_TRY(auto pin, resolve(name, images));
    if (!options.force) {
      DS_CHECK(check_unused(pin, state, layout, images));
    }
    pins.push_back(std::move(pin));
  }
  const app::AllowlistFile file(layout.allowlist());
  for (const auto& pin : pins) {
    DS_TRY(const bool changed, file.unpin_image(pin.hash));
    streams.err << pin.name << (changed ? " gets no keys any more" : " was not in the allow-list") << '\n';
  }
  return cli::k_exit_ok;
}

}  // namespace

std::string describe_allowed(const host::Layout& layout, const std::vector<host::Image>& images) {
  const auto loaded = app::load_allowlist(layout.allowlist());
  std::string out;
  for (const auto& hash : loaded ? loaded->allowlist.os_images : app::HexSet()) {
    const auto image = std::ranges::find(images, hash, &host::Image::os_image_hash);
    out += (out.empty() ? "" : ", ") + (image != images.end() ? image->name : hash + " (no image here)");
  }
  return out.empty() ? "" : "in the allow-list: " + out + "\n";
}

void add_image_unpin(cli::Command& image, const cli::Streams& streams) {
  auto options = std::make_shared<Options>();
  auto& verb = image.verb("unpin", "take images out of the allow-list: apps get no keys on them");
  verb.option("NAME", options->names, "the images, by name or by digest");
  verb.values("NAME", cli::Values::dynamic("images"));
  verb.require("NAME");
  verb.option("--prefix", options->prefix, "use the installation below this directory");
  verb.flag("--force", options->force, "also the installation's own, or one that a VM uses");
  verb.examples("dstackup image unpin dstack-0.5.4");
  verb.action([options, &streams] {
    const auto code = unpin(*options, streams);
    return code ? *code : cli::print_error(streams, code.error(), false);
  });
}

}  // namespace dstack::dstackup
