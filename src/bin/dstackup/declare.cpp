#include "cli/completion.h"
#include "host/release.h"
#include "verbs.h"

namespace dstack::dstackup {

void declare(cli::Command& program, const cli::Streams& streams) {
  const auto globals = std::make_shared<Globals>();
  program.option("--host", globals->host, "for status: only ask this VMM whether it answers");
  program.option("--release-api-base-url", globals->release_api,
                 "for install and image pull: release server (GitHub's API), up to /repos",
                 host::k_release_api);
  program.only_for("--host", {"status"});
  program.only_for("--release-api-base-url", {"install", "image pull"});
  add_install(program, streams, globals);
  add_doctor(program, streams);
  add_status(program, streams, globals);
  add_image(program, streams, globals);
  add_volume(program, streams);
  add_upgrade(program, streams);
  add_destroy(program, streams);
  add_support(program, streams);
  add_complete(program, streams);
  cli::add_completion(program, streams);
  program.examples(
      "dstackup image build\n"
      "dstackup install --platform simulated\n"
      "dstackup status\n"
      "dstackup destroy --purge");
}

}  // namespace dstack::dstackup
