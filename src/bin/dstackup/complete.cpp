#include <memory>
#include <ostream>

#include "base/format.h"
#include "base/log.h"
#include "host/image.h"
#include "host/image_use.h"
#include "host/layout.h"
#include "host/volume.h"
#include "verbs.h"

namespace dstack::dstackup {

namespace {

base::Result<> print_names(const std::string& what, const std::optional<std::string>& prefix,
                           std::ostream& out) {
  DS_TRY(const auto layout, host::Layout::make(prefix));
  if (what == "images") {
    DS_TRY(const auto state, host::last_known_state(layout));
    DS_TRY(const auto images, host::list_images(host::image_directory(state, layout)));
    for (const auto& image : images) {
      out << base::escape_control(image.name) << '\n';
    }
  } else if (what == "volumes") {
    DS_TRY(const auto index, host::VolumeIndex::load(layout.state));
    for (const auto& entry : index.entries()) {
      out << base::escape_control(entry.name) << '\n';
    }
  }
  return {};
}

}  // namespace

void add_complete(cli::Command& program, const cli::Streams& streams) {
  struct Options {
    std::string what;
    std::optional<std::string> prefix;
  };
  const auto options = std::make_shared<Options>();
  auto& verb = program.verb("__complete", "names for completions");
  verb.option("WHAT", options->what, "images or volumes");
  verb.option("--prefix", options->prefix, "the installation below this directory");
  verb.hide();
  // A shell that completes wants no error text.
  verb.action([options, &streams] {
    return print_names(options->what, options->prefix, streams.out) ? cli::k_exit_ok : cli::k_exit_failure;
  });
}

}  // namespace dstack::dstackup
