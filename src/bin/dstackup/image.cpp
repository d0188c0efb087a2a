#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/format.h"
#include "base/fs.h"
#include "cli/table.h"
#include "host/image.h"
#include "host/image_build.h"
#include "host/layout.h"
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
  std::string name;
  std::string mirror;
  std::string version = DSTACK_VERSION;
  bool no_cache = false;
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
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  if (!options.output) {
    DS_CHECK(host::ensure_state_directory(layout));
  }
  host::BuildImage what;
  what.images = options.output ? fs::absolute(*options.output) : layout.images();
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

base::Result<int> list(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  std::vector<std::string> broken;
  DS_TRY(const auto images, host::list_images(layout.images(), &broken));
  for (const auto& line : broken) {
    cli::print_warning(streams, line);
  }
  if (options.json) {
    Json out = Json::array();
    for (const auto& image : images) {
      out.push_back({{"name", image.name},
                     {"version", image.metadata.version},
                     {"osImageHash", image.os_image_hash},
                     {"directory", image.directory.string()}});
    }
    streams.out << out.dump() << '\n';
    return cli::k_exit_ok;
  }
  if (images.empty()) {
    streams.err << "no images in " << layout.images().string() << "; make one with dstackup image build\n";
    return cli::k_exit_ok;
  }
  cli::Table table({{"NAME"}, {"VERSION"}, {"OS IMAGE HASH"}});
  for (const auto& image : images) {
    table.add({image.name, image.metadata.version, image.os_image_hash.empty() ? "-" : image.os_image_hash});
  }
  streams.out << table.text();
  return cli::k_exit_ok;
}

base::Result<int> verify(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto image, host::find_image(layout.images(), options.name));
  DS_CHECK(host::verify_image_digest(image));
  streams.out << image.name << ' ' << image.os_image_hash << '\n';
  return cli::k_exit_ok;
}

base::Result<int> remove(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_CHECK(host::remove_image(layout.images(), options.name));
  streams.err << "removed " << options.name << '\n';
  return cli::k_exit_ok;
}

using Function = base::Result<int> (*)(const Options&, const cli::Streams&);

void set_action(cli::Command& verb, std::shared_ptr<Options> options, const cli::Streams& streams,
                Function run) {
  verb.option("--prefix", options->prefix, "use the installation below this directory");
  verb.action([options = std::move(options), &streams, run] {
    const auto code = run(*options, streams);
    return code ? *code : cli::print_error(streams, code.error(), options->json);
  });
}

}  // namespace

void add_image(cli::Command& program, const cli::Streams& streams) {
  auto& image = program.verb("image", "build, list and remove guest images");
  {
    auto options = std::make_shared<Options>();
    auto& verb = image.verb("build", "build a guest image from Debian packages");
    verb.option("--name", options->name, "name of the image", "dstack-" DSTACK_VERSION);
    verb.option("--output", options->output, "directory of images to write to", "the installation's");
    verb.option("--mirror", options->mirror, "Debian mirror", "from this machine's apt configuration");
    verb.option("--programs", options->programs, "directory with dstack-init and dstack-guest",
                "dstackup's own");
    verb.option("--recipe", options->recipe, "directory with the image's recipe", "the one of this version");
    verb.flag("--no-cache", options->no_cache, "fetch the packages again");
    verb.flag("-j,--json", options->json, "print the result as JSON");
    verb.examples("dstackup image build\ndstackup image build --name test --output /tmp/images");
    set_action(verb, options, streams, build);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = image.verb("list", "list the images of the installation", {"ls"});
    verb.flag("-j,--json", options->json, "print the list as JSON");
    set_action(verb, options, streams, list);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = image.verb("verify", "check an image's files against its digest");
    verb.option("NAME", options->name, "the image");
    verb.require("NAME");
    set_action(verb, options, streams, verify);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = image.verb("rm", "remove an image");
    verb.option("NAME", options->name, "the image");
    verb.require("NAME");
    set_action(verb, options, streams, remove);
  }
}

}  // namespace dstack::dstackup
