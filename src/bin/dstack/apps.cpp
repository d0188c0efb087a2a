#include <nlohmann/json.hpp>
#include <ostream>

#include "base/bytes.h"
#include "base/format.h"
#include "bin/dstack/verbs.h"
#include "bin/dstack/vm_json.h"
#include "cli/table.h"
#include "client/vmm_client.h"

namespace dstack::dstack_cli {
namespace {

using Json = nlohmann::ordered_json;

std::string ports_of(const ::vmm::VmInfo& vm) {
  std::string out;
  for (const auto& port : vm.configuration().ports()) {
    out += base::format("{}{}->{}{}", out.empty() ? "" : ",", port.host_port(), port.vm_port(),
                        port.protocol() == "tcp" ? "" : "/" + port.protocol());
  }
  return out.empty() ? "-" : out;
}

std::string boot_of(const ::vmm::VmInfo& vm) {
  const auto error = base::trim(vm.boot_error());
  return error.empty() ? std::string(base::trim(vm.boot_progress())) : base::format("error: {}", error);
}

Json to_json(const ::vmm::VmInfo& vm) {
  return {{"id", vm.id()},
          {"name", vm.name()},
          {"status", vm.status()},
          {"uptime", vm.uptime()},
          {"appId", vm.app_id()},
          {"bootProgress", vm.boot_progress()},
          {"bootError", vm.boot_error()},
          {"instanceId", vm.instance_id()},
          {"image", vm.configuration().image()},
          {"ports", ports_to_json(vm.configuration())}};
}

base::Result<> apps(const Globals& globals, const cli::Streams& streams) {
  DS_TRY(const auto access, client::resolve_access(globals.access));
  DS_TRY(const auto vms, client::VmmClient(access.endpoint, access.token, access.pin).vms());
  if (globals.json) {
    Json out = Json::array();
    for (const auto& vm : vms) {
      out.push_back(to_json(vm));
    }
    streams.out << out.dump(2, ' ', false, Json::error_handler_t::replace) << std::endl;
    return {};
  }
  if (vms.empty()) {
    streams.out << "no apps deployed" << std::endl;
    return {};
  }
  cli::Table table(
      {{"ID", 12}, {"NAME", 22}, {"STATUS", 10}, {"UPTIME", 14}, {"PORTS", 24}, {"APP ID", 40}, {"BOOT"}});
  for (const auto& vm : vms) {
    table.add(
        {vm.id().substr(0, 12), vm.name(), vm.status(), vm.uptime(), ports_of(vm), vm.app_id(), boot_of(vm)});
  }
  streams.out << table.text() << std::flush;
  return {};
}

}  // namespace

void add_apps(cli::Command& program, const Globals& globals, const cli::Streams& streams) {
  cli::Command& verb = program.verb("apps", "list the apps", {"ls"});
  verb.examples("dstack apps\ndstack apps --json");
  verb.action([&globals, &streams] {
    const auto result = apps(globals, streams);
    return result ? cli::k_exit_ok : cli::print_error(streams, result.error(), globals.json);
  });
}

}  // namespace dstack::dstack_cli
