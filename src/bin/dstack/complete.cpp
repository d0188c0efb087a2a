#include <memory>
#include <ostream>

#include "base/log.h"
#include "bin/dstack/verbs.h"
#include "client/vmm_client.h"

namespace dstack::dstack_cli {
namespace {

base::Result<> print_apps(const Globals& globals, std::ostream& out) {
  DS_TRY(const auto access, client::resolve_access(globals.access));
  DS_TRY(const auto vms, client::VmmClient(access.endpoint, access.token, access.pin).vms(/*brief=*/true));
  for (const auto& vm : vms) {
    out << base::escape_control(vm.name()) << '\n';
  }
  return {};
}

}  // namespace

void add_complete(cli::Command& program, const Globals& globals, const cli::Streams& streams) {
  const auto what = std::make_shared<std::string>();
  auto& verb = program.verb("__complete", "names for completions");
  verb.option("WHAT", *what, "apps");
  verb.hide();
  // A shell that completes wants no error text.
  verb.action([what, &globals, &streams] {
    return *what == "apps" && print_apps(globals, streams.out) ? cli::k_exit_ok : cli::k_exit_failure;
  });
}

}  // namespace dstack::dstack_cli
