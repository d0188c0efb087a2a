#include "cli/completion.h"
#include "verbs.h"

namespace dstack::dstackup {

void declare(cli::Command& program, const cli::Streams& streams) {
  add_install(program, streams);
  add_doctor(program, streams);
  add_status(program, streams);
  add_image(program, streams);
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
