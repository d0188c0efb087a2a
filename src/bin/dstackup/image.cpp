#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/format.h"
#include "base/fs.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "fetch_image.h"
#include "host/image.h"
#include "host/image_build.h"
#include "host/image_use.h"
#include "host/layout.h"
#include "host/release.h"
#include "image_pins.h"
#include "verb_action.h"
#include "verbs.h"

namespace dstack::dstackup {

namespace fs = std::filesystem;

namespace {

using base::format;
using Json = nlohmann::ordered_json;

struct Options {
  std::optional<std::string> prefix;
  std::optional<std::string> output;
  std::optional<std::string> programs;
  std::optional<std::string> recipe;
  std::optional<std::string> image_path;
  std::optional<std::string> release;
  std::optional<std::string> release_api;
  std::shared_ptr<const Globals> globals;
  std::vector<std::string> names;
  std::string name;
  std::string mirror;
  std::string version = DSTACK_VERSION;
  bool no_cache = false;
  bool gpu = false;
  bool force = false;
  bool insecure = false;
  bool json = false;
};

fs::path program_directory() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path();
}

// In a build tree the recipe is beside it, in an installation below share.
fs::path find_recipe(const host::Layout& layout) {
  std::error_code error;
  for (const auto& candidate : {program_directory() / "../../image", layout.share / "image",
                                program_directory() / "../share/dstack/image"}) {
    if (fs::exists(candidate / "packages.list", error)) {
      return fs::weakly_canonical(candidate, error);
    }
  }
  return layout.share / "image";
}

base::Result<int> build(const Options& options, const cli::Streams& streams) {
  DS_TRY(auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto state, host::last_known_state(layout));
  layout.share = host::installed_layout(layout, state).share;
  host::BuildImage what;
  what.images = options.output ? fs::absolute(*options.output) : host::image_directory(state, layout);
  what.use = host::image_use(state, layout, what.images);
  what.force = options.force;
  if (host::same_directory(what.images, layout.images())) {
    DS_CHECK(host::ensure_state_directory(layout));
  }
  what.name = options.name;
  what.cache = layout.cache;
  what.programs = options.programs ? fs::path(*options.programs) : program_directory();
  what.recipe = options.recipe ? fs::path(*options.recipe) : find_recipe(layout);
  what.mirror = options.mirror;
  what.version = options.version;
  what.use_cache = !options.no_cache;
  what.report = [&](std::string_view line) { streams.err << line << '\n' << std::flush; };
  DS_TRY(const auto built, host::build_image(what));
  if (options.json) {
    streams.out << Json{{"name", built.name},
                        {"directory", built.directory.string()},
                        {"osImageHash", built.os_image_hash},
                        {"unchanged", built.unchanged}}
                       .dump()
                << '\n';
  } else {
    streams.out << built.name << ' ' << built.os_image_hash << '\n';
  }
  return cli::k_exit_ok;
}

// The directory named by --image-path, else the installation's.
base::Result<fs::path> images_of(const Options& options, const host::Layout& layout) {
  if (options.image_path) {
    DS_CHECK(host::validate_directory(*options.image_path, "--image-path"));
    return fs::path(*options.image_path);
  }
  DS_TRY(const auto state, host::last_known_state(layout));
  return host::image_directory(state, layout);
}

base::Result<int> list(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto directory, images_of(options, layout));
  std::vector<std::string> broken;
  DS_TRY(const auto images, host::list_images(directory, &broken));
  for (const auto& line : broken) {
    cli::print_warning(streams, line);
  }
  const auto state = host::last_known_state(layout);
  const auto use = state ? host::image_use(*state, layout, directory) : host::ImageUse{};
  const auto pinned = [&](const host::Image& image) { return use.pinned_name == image.name; };
  if (options.json) {
    Json out = Json::array();
    for (const auto& image : images) {
      out.push_back({{"name", image.name},
                     {"version", image.metadata.version},
                     {"osImageHash", image.os_image_hash},
                     {"directory", image.directory.string()},
                     {"pinned", pinned(image)}});
    }
    streams.out << out.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
    return cli::k_exit_ok;
  }
  if (images.empty()) {
    streams.err << "no images in " << directory.string()
                << "; fetch one with 'dstackup image pull', or make one with 'dstackup image build'\n";
    return cli::k_exit_ok;
  }
  cli::Table table({{"NAME"}, {"VERSION"}, {"OS IMAGE HASH"}, {"PINNED"}});
  for (const auto& image : images) {
    table.add({image.name, image.metadata.version, image.os_image_hash.empty() ? "-" : image.os_image_hash,
               !pinned(image)   ? ""
               : use.taken_down ? "kept"
                                : "yes"});
  }
  streams.out << table.text() << describe_allowed(layout, images);
  return cli::k_exit_ok;
}

base::Result<int> verify(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto directory, images_of(options, layout));
  DS_TRY(const auto state, host::last_known_state(layout));
  const auto use = host::image_use(state, layout, directory);
  std::vector<host::Image> images;
  if (options.names.empty()) {
    DS_TRY(images, host::list_images(directory));
  }
  for (const auto& name : options.names) {
    DS_TRY(auto image, host::find_image(directory, name));
    images.push_back(std::move(image));
  }
  int code = cli::k_exit_ok;
  Json out = Json::array();
  for (const auto& image : images) {
    auto result = host::verify_image_digest(image);
    if (result && use.pinned_name == image.name && !use.pinned_hash.empty() &&
        use.pinned_hash != image.os_image_hash) {
      result = base::fail(base::Code::image_corrupt,
                          format("image {} is not the one that is pinned ({})", image.name, use.pinned_hash),
                          "put the pinned image back, or install with the new one");
    }
    if (options.json) {
      out.push_back({{"name", image.name},
                     {"osImageHash", image.os_image_hash},
                     {"valid", result.has_value()},
                     {"problem", result ? "" : result.error().what()}});
    } else if (result) {
      streams.out << image.name << ' ' << image.os_image_hash << '\n';
    }
    if (!result) {
      code = cli::print_error(streams, result.error(), options.json);
    }
  }
  if (options.json) {
    streams.out << out.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  }
  return code;
}

base::Result<int> remove(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto directory, images_of(options, layout));
  DS_TRY(const auto state, host::last_known_state(layout));
  const auto use = host::image_use(state, layout, directory);
  for (const auto& name : options.names) {
    DS_CHECK(host::check_image_name(name));
    if (!options.force) {
      DS_CHECK(host::check_removal(use, name));
    }
  }
  std::size_t removed = 0;
  for (const auto& name : options.names) {
    const auto result = host::remove_image(directory, name);
    if (result) {
      streams.err << "removed " << name << '\n';
      ++removed;
    } else if (result.error().code == base::Code::image_not_found) {
      cli::print_warning(streams, result.error().what());
    } else {
      return base::fail(result.error());
    }
  }
  if (removed == 0) {
    return base::fail(base::Code::image_not_found, "nothing was removed",
                      "list the images with dstackup image list");
  }
  return cli::k_exit_ok;
}

base::Result<int> pull(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto images, images_of(options, layout));
  cli::Progress progress(streams, options.json);
  const auto& api = options.release_api ? options.release_api : options.globals->release_api;
  DS_TRY(const auto pulled,
         fetch_image({layout, images, api, options.release, options.gpu, options.force, options.insecure},
                     progress));
  if (options.json) {
    streams.out << Json{{"name", pulled.image.name},
                        {"directory", pulled.image.directory.string()},
                        {"osImageHash", pulled.image.os_image_hash},
                        {"release", pulled.release},
                        {"sha256", pulled.sha256},
                        {"unchanged", pulled.unchanged}}
                       .dump(-1, ' ', false, Json::error_handler_t::replace)
                << '\n';
  } else {
    pulled.unchanged ? progress.skip(pulled.image.name + " is there already; --force fetches it again")
                     : progress.ok("pulled " + pulled.image.name);
    streams.out << pulled.image.name << ' ' << pulled.image.os_image_hash << '\n';
  }
  return cli::k_exit_ok;
}

}  // namespace

void add_image(cli::Command& program, const cli::Streams& streams,
               const std::shared_ptr<const Globals>& globals) {
  auto& image = program.verb("image", "fetch, build, list, check and remove guest images");
  {
    auto options = std::make_shared<Options>();
    options->globals = globals;
    auto& verb = image.verb("pull", "fetch a published guest image");
    verb.option("--version", options->release, "release to fetch", "the latest");
    verb.flag("--gpu", options->gpu, "prefer an image for NVIDIA GPUs where the release has one");
    verb.option("--image-path", options->image_path, "directory of images to write to", "the installation's");
    verb.values("--image-path", cli::Values::directory());
    verb.flag("--force", options->force, "fetch and replace what is there already, but for an image in use");
    verb.flag("--insecure", options->insecure, "go on when the release names no sha256");
    verb.option("--release-api-base-url", options->release_api, "release server (GitHub's API), up to /repos",
                host::k_release_api);
    verb.flag("-j,--json", options->json, "print the result as JSON");
    verb.examples(
        "dstackup image pull\n"
        "dstackup image pull --version 0.6.0\n"
        "dstackup image pull --release-api-base-url https://mirror.example/repos");
    set_action(verb, options, streams, pull);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = image.verb("build", "build a guest image from Debian packages");
    verb.option("--name", options->name, "name of the image", "dstack-" DSTACK_VERSION);
    verb.option("--output", options->output, "directory of images to write to", "the installation's");
    verb.values("--output", cli::Values::directory());
    verb.option("--mirror", options->mirror, "Debian mirror", "from this machine's apt configuration");
    verb.option("--programs", options->programs, "directory with dstack-init and dstack-guest",
                "dstackup's own");
    verb.option("--recipe", options->recipe, "directory with the image's recipe", "the one of this version");
    verb.flag("--no-cache", options->no_cache, "fetch the packages again");
    verb.flag("--force", options->force, "also over another image that is pinned or used by a VM");
    verb.flag("-j,--json", options->json, "print the result as JSON");
    verb.examples("dstackup image build\ndstackup image build --name test --output /tmp/images");
    set_action(verb, options, streams, build);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = image.verb("list", "list images, the newest last", {"ls"});
    verb.option("--image-path", options->image_path, "directory of images", "the installation's");
    verb.values("--image-path", cli::Values::directory());
    verb.flag("-j,--json", options->json, "print the list as JSON");
    verb.examples("dstackup image list\ndstackup image list --json --image-path /srv/images");
    set_action(verb, options, streams, list);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb =
        image.verb("verify", "check images' files against their digests, and the pinned one against its pin");
    verb.option("NAME", options->names, "the images; all when none is named");
    verb.option("--image-path", options->image_path, "directory of images", "the installation's");
    verb.values("--image-path", cli::Values::directory());
    verb.flag("-j,--json", options->json, "print the results as JSON");
    verb.examples("dstackup image verify\ndstackup image verify dstack-0.6.0");
    set_action(verb, options, streams, verify);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = image.verb("rm", "remove images", {"remove"});
    verb.option("NAME", options->names, "the images");
    verb.values("NAME", cli::Values::dynamic("images"));
    verb.require("NAME");
    verb.option("--image-path", options->image_path, "directory of images", "the installation's");
    verb.values("--image-path", cli::Values::directory());
    verb.flag("--force", options->force, "also one that is pinned or used by a VM");
    verb.examples("dstackup image rm dstack-0.5.4");
    set_action(verb, options, streams, remove);
  }
  add_image_unpin(image, streams);
}

}  // namespace dstack::dstackup
