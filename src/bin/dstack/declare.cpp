#include "bin/dstack/verbs.h"
#include "cli/completion.h"

namespace dstack::dstack_cli {

void declare(cli::Command& program, Globals& globals, const cli::Streams& streams) {
  program.option("--host", globals.access.host,
                 "VMM to talk to: http://127.0.0.1:PORT, https://ADDRESS:PORT or unix:PATH",
                 "the installation of this host");
  program.option("--prefix", globals.access.prefix, "directory of the installation, when it has one");
  program.option("--token", globals.access.token,
                 "the VMM's bearer token; visible to other users, so prefer DSTACK_VMM_TOKEN",
                 "DSTACK_VMM_TOKEN, then the installation's token file");
  program.option("--fingerprint", globals.access.fingerprint,
                 "certificate of an https --host: sha256:HEX, as \"dstackup status\" prints it there",
                 "DSTACK_VMM_FINGERPRINT, then what was given last");
  program.flag("-j,--json", globals.json, "print the result as JSON on stdout, errors as JSON on stderr");
  add_deploy(program, globals, streams);
  add_apps(program, globals, streams);
  add_logs(program, globals, streams);
  add_info(program, globals, streams);
  add_remove(program, globals, streams);
  add_complete(program, globals, streams);
  cli::add_completion(program, streams);
  program.examples(
      "dstack deploy -c docker-compose.yaml -n hello --port 18080:80\n"
      "dstack apps\n"
      "dstack logs -f hello\n"
      "dstack remove hello");
}

}  // namespace dstack::dstack_cli
