#include "client/remove.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/format.h"
#include "base/log.h"
#include "bin/dstack/verbs.h"
#include "cli/progress.h"
#include "client/select.h"

namespace dstack::dstack_cli {
namespace {

using base::Code;
using Json = nlohmann::ordered_json;

struct Options {
  std::string id;
  bool keep_grant = false;
  std::optional<std::string> allowlist;
};

base::Result<> check_not_kms(const ::vmm::VmInfo& vm, const client::InstallDefaults& defaults) {
  if (defaults.state && defaults.state->kms_vm_id == vm.id()) {
    return base::fail(
        Code::invalid_argument,
        base::format("{} is the KMS of this installation: without it no app gets its keys", vm.name()),
        "take the whole installation down with \"dstackup destroy\"");
  }
  return {};
}

base::Result<> remove(const Options& options, const Globals& globals, const cli::Streams& streams) {
  DS_TRY(const auto access, client::resolve_access(globals.access));
  const client::VmmClient vmm(access.endpoint, access.token, access.pin);
  DS_TRY(const auto vms, vmm.vms());
  DS_TRY(const auto vm, client::find_vm(vms, options.id));
  DS_CHECK(check_not_kms(vm, access.defaults));

  cli::Progress progress(streams, globals.json);
  client::RemoveOptions what;
  what.keep_grant = options.keep_grant;
  what.allowlist = access.defaults.allowlist;
  if (options.allowlist) {
    what.allowlist = *options.allowlist;
  }
  what.waiting = [&](std::string_view text) { progress.waiting(text); };
  DS_TRY(const auto removed, client::remove_app(vmm, vm, vms, what));
  if (globals.json) {
    const Json out = {{"vmId", vm.id()},
                      {"name", vm.name()},
                      {"appId", vm.app_id()},
                      {"grantRevoked", removed.grant_revoked},
                      {"gone", removed.gone}};
    streams.out << out.dump(2, ' ', false, Json::error_handler_t::replace) << std::endl;
    return {};
  }
  streams.out << base::format("{} {} (vm {}){}\n", removed.gone ? "removed" : "removing",
                              base::escape_control(vm.name()), vm.id(),
                              removed.grant_revoked ? ", its allow-list entry is taken back" : "")
              << std::flush;
  return {};
}

}  // namespace

void add_remove(cli::Command& program, const Globals& globals, const cli::Streams& streams) {
  const auto options = std::make_shared<Options>();
  cli::Command& verb = program.verb("remove", "stop an app and delete it with its data", {"rm"});
  verb.option("ID", options->id, "VM id or a prefix of it, name, or app id");
  verb.require("ID");
  verb.values("ID", cli::Values::dynamic("apps"));
  verb.flag("--keep-grant", options->keep_grant,
            "leave the allow-list entry, so that the same app may start again");
  verb.option("--allowlist", options->allowlist, "allow-list in which the app is registered",
              "the installation's");
  verb.examples("dstack remove hello\ndstack rm 3f2a --keep-grant");
  verb.action([options, &globals, &streams] {
    const auto result = remove(*options, globals, streams);
    return result ? cli::k_exit_ok : cli::print_error(streams, result.error(), globals.json);
  });
}

}  // namespace dstack::dstack_cli
