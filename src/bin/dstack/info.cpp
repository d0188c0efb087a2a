#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "app/app_compose.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"
#include "bin/dstack/verbs.h"
#include "bin/dstack/vm_json.h"
#include "client/select.h"
#include "client/vmm_client.h"

namespace dstack::dstack_cli {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const ::vmm::VmInfo& vm) {
  const auto& config = vm.configuration();
  Json events = Json::array();
  for (const auto& event : vm.events()) {
    events.push_back({{"event", event.event()}, {"body", event.body()}, {"timestamp", event.timestamp()}});
  }
  return {{"id", vm.id()},
          {"name", vm.name()},
          {"status", vm.status()},
          {"uptime", vm.uptime()},
          {"appId", vm.app_id()},
          {"composeHash", app::compose_hash(config.compose_file())},
          {"instanceId", vm.instance_id()},
          {"image", config.image()},
          {"imageVersion", vm.image_version()},
          {"vcpu", config.vcpu()},
          {"memory", config.memory()},
          {"disk", config.disk_size()},
          {"bootProgress", vm.boot_progress()},
          {"bootError", vm.boot_error()},
          {"shutdownProgress", vm.shutdown_progress()},
          {"exitedAt", vm.exited_at()},
          {"ports", ports_to_json(config)},
          {"events", std::move(events)},
          {"appCompose", config.compose_file()}};
}

void print_text(const ::vmm::VmInfo& vm, std::ostream& out) {
  const auto& config = vm.configuration();
  const auto line = [&](std::string_view key, std::string_view value) {
    if (!base::trim(value).empty()) {
      out << base::format("{:<14}{}\n", key, base::escape_control(base::trim(value)));
    }
  };
  line("name", vm.name());
  line("vm id", vm.id());
  line("status", vm.status());
  line("uptime", vm.uptime());
  line("app id", vm.app_id());
  line("compose hash", app::compose_hash(config.compose_file()));
  line("instance id", vm.instance_id());
  line("image", config.image());
  line("size", base::format("{} vCPU, {} MiB, {} GiB", config.vcpu(), config.memory(), config.disk_size()));
  for (const auto& port : config.ports()) {
    line("port", base::format("{}:{} -> {}/{}", port.host_address(), port.host_port(), port.vm_port(),
                              port.protocol()));
  }
  line("boot", vm.boot_progress());
  line("boot error", vm.boot_error());
  line("shutdown", vm.shutdown_progress());
  for (const auto& event : vm.events()) {
    line("event", base::format("{}: {}", event.event(), event.body()));
  }
  out.flush();
}

base::Result<> info(const std::string& id, const Globals& globals, const cli::Streams& streams) {
  DS_TRY(const auto access, client::resolve_access(globals.access));
  DS_TRY(const auto vms, client::VmmClient(access.endpoint, access.token, access.pin).vms());
  DS_TRY(const auto vm, client::find_vm(vms, id));
  if (globals.json) {
    streams.out << to_json(vm).dump(2, ' ', false, Json::error_handler_t::replace) << std::endl;
  } else {
    print_text(vm, streams.out);
  }
  return {};
}

}  // namespace

void add_info(cli::Command& program, const Globals& globals, const cli::Streams& streams) {
  const auto id = std::make_shared<std::string>();
  cli::Command& verb = program.verb("info", "show everything about one app");
  verb.option("ID", *id, "VM id or a prefix of it, name, or app id");
  verb.require("ID");
  verb.values("ID", cli::Values::dynamic("apps"));
  verb.examples("dstack info hello\ndstack info 3f2a --json");
  verb.action([id, &globals, &streams] {
    const auto result = info(*id, globals, streams);
    return result ? cli::k_exit_ok : cli::print_error(streams, result.error(), globals.json);
  });
}

}  // namespace dstack::dstack_cli
