#include <memory>
#include <ostream>

#include "base/log.h"
#include "bin/dstack/verbs.h"
#include "client/select.h"
#include "client/vmm_client.h"

namespace dstack::dstack_cli {
namespace {

struct Options {
  std::string id;
  bool follow = false;
  std::uint32_t lines = 200;
  std::string channel = "serial";
};

constexpr std::string_view k_heartbeat = "[vmm heartbeat]\n";

base::Result<> logs(const Options& options, const Globals& globals, const cli::Streams& streams) {
  DS_TRY(const auto access, client::resolve_access(globals.access));
  const client::VmmClient vmm(access.endpoint, access.token, access.pin);
  DS_TRY(const auto vms, vmm.vms(/*brief=*/true));
  DS_TRY(const auto vm, client::find_vm(vms, options.id));
  const client::LogQuery query{vm.id(), options.lines, options.follow, options.channel};
  return vmm.logs(query, [&](std::string_view chunk) {
    if (chunk != k_heartbeat) {
      // The guest writes this log: on a terminal it must not control it.
      streams.out << (streams.out_is_terminal ? base::escape_control(chunk, true) : std::string(chunk))
                  << std::flush;
    }
    return streams.out.good();
  });
}

}  // namespace

void add_logs(cli::Command& program, const Globals& globals, const cli::Streams& streams) {
  const auto options = std::make_shared<Options>();
  cli::Command& verb = program.verb("logs", "print an app's console log");
  verb.option("ID", options->id, "VM id or a prefix of it, name, or app id");
  verb.require("ID");
  verb.values("ID", cli::Values::dynamic("apps"));
  verb.flag("-f,--follow", options->follow, "go on printing what is added");
  verb.option("-n,--lines", options->lines, "how many of the last lines", "200");
  verb.option("--channel", options->channel, "serial (the guest), or stdout or stderr (QEMU)", "serial");
  verb.values("--channel", cli::Values::choice({"serial", "stdout", "stderr"}));
  verb.examples("dstack logs hello\ndstack logs -f hello\ndstack logs -n 20 3f2a");
  verb.action([options, &globals, &streams] {
    const auto result = logs(*options, globals, streams);
    return result ? cli::k_exit_ok : cli::print_error(streams, result.error(), globals.json);
  });
}

}  // namespace dstack::dstack_cli
