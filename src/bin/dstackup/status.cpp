#include <nlohmann/json.hpp>
#include <ostream>

#include "app/allowlist_file.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "context.h"
#include "host/kms_contact.h"
#include "verbs.h"

namespace dstack::dstackup {

using base::Result;
using Json = nlohmann::ordered_json;

namespace {

struct Flags {
  std::optional<std::string> prefix;
  bool json = false;
};

// One thing that is up or not.
struct Item {
  std::string name;
  bool healthy = false;
  std::string detail;
};

Item service_item(host::ServiceManager& services, const std::string& unit) {
  const auto status = services.status(unit);
  if (!status) {
    return {unit, false, status.error().what()};
  }
  std::string detail(host::to_string(status->state));
  if (status->pid != 0) {
    detail += base::format(", pid {}", status->pid);
  }
  if (status->restarts != 0) {
    detail += base::format(", restarted {} times", status->restarts);
  }
  const auto& said =
      status->state == host::ServiceState::active || status->result.empty() ? status->text : status->result;
  if (!said.empty()) {
    detail += ", " + said;
  }
  return {unit, status->state == host::ServiceState::active, detail};
}

Item vmm_item(const host::Layout& layout, const host::InstallState& state, std::size_t& apps) {
  const auto vmm = open_vmm(layout, state);
  if (!vmm) {
    return {"VMM API", false, vmm.error().what()};
  }
  const auto vms = vmm->vms(/*brief=*/true);
  if (!vms) {
    return {"VMM API", false, vms.error().what()};
  }
  std::size_t running = 0;
  for (const auto& vm : *vms) {
    running += vm.status() == "running" ? 1U : 0U;
    apps += state.kms_vm_id && vm.id() == *state.kms_vm_id ? 0U : 1U;
  }
  return {"VMM API", true, base::format("{}, {} VMs, {} running", state.client_url, vms->size(), running)};
}

Item kms_item(const host::Layout& layout, const host::InstallState& state) {
  const auto fail = [](std::string why) { return Item{"KMS", false, std::move(why)}; };
  if (state.kms_ca_cert.empty()) {
    return fail("it was never ready; run 'dstackup install' again");
  }
  host::KmsExpectation expected;
  expected.port = state.kms_port;
  expected.timeout = std::chrono::seconds(5);
  auto anchors = trust_anchors(layout, state.platform);
  auto ca = base::read_file(state.kms_ca_cert);
  if (!anchors || !ca) {
    return fail(anchors ? ca.error().what() : anchors.error().what());
  }
  expected.anchors = std::move(*anchors);
  expected.pinned_ca_pem = std::move(*ca);
  const auto contact = host::contact_kms(expected);
  if (!contact) {
    return fail(contact.error().what());
  }
  return {"KMS", true,
          base::format("https://127.0.0.1:{}, pinned root {}…, evidence {}", state.kms_port,
                       state.kms_ca_sha256.substr(0, 16), contact->verdict.tcb_status)};
}

Item allowlist_item(const host::InstallState& state, std::size_t& registered) {
  const auto apps = app::AllowlistFile(state.allowlist_path).apps();
  if (!apps) {
    return {"allow-list", false, apps.error().what()};
  }
  registered = apps->size();
  return {"allow-list", true, base::format("{} apps registered", apps->size())};
}

void print_text(const cli::Streams& streams, const host::InstallState& state, const std::string& manager,
                const std::vector<Item>& items) {
  auto& out = streams.out;
  out << "platform     " << state.platform
      << (state.platform == "simulated" ? " (no TEE protects these VMs: for development)" : "") << '\n';
  out << "services     " << manager << '\n';
  const std::string pin = !state.image ? ""
                          : state.os_image_hash.empty()
                              ? " (not pinned: any image may get keys)"
                              : " (pinned " + state.os_image_hash.substr(0, 16) + "…)";
  out << "image        " << state.image.value_or("none") << pin << '\n';
  for (const auto& item : items) {
    out << (item.healthy ? "[ok] " : "[!!] ") << item.name << ": " << base::escape_control(item.detail)
        << '\n';
  }
}

void print_json(const cli::Streams& streams, const host::InstallState& state, const std::string& manager,
                const std::vector<Item>& items, bool healthy, std::size_t apps, std::size_t registered) {
  Json json;
  json["healthy"] = healthy;
  json["platform"] = state.platform;
  json["serviceManager"] = manager;
  json["image"] = state.image ? Json(*state.image) : Json(nullptr);
  json["osImageHash"] = state.os_image_hash;
  json["ports"] = {{"dashboard", state.dashboard_port()},
                   {"auth", state.auth_port},
                   {"hostApi", state.host_api_port},
                   {"kms", state.kms_port}};
  json["kmsCaSha256"] = state.kms_ca_sha256;
  json["apps"] = apps;
  json["registeredApps"] = registered;
  json["items"] = Json::array();
  for (const auto& item : items) {
    json["items"].push_back({{"name", item.name}, {"healthy", item.healthy}, {"detail", item.detail}});
  }
  streams.out << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

Result<int> status(const Flags& flags, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(flags.prefix));
  DS_TRY(const auto state, host::require_state(layout.state_file()));
  DS_TRY(const auto services, open_services(layout, state.instance, /*may_start=*/false));
  std::size_t apps = 0;
  std::size_t registered = 0;
  std::vector<Item> items = {service_item(*services, state.auth_unit),
                             service_item(*services, state.vmm_unit), vmm_item(layout, state, apps)};
  if (state.kms_port != 0) {
    items.push_back(kms_item(layout, state));
  }
  items.push_back(allowlist_item(state, registered));
  bool healthy = true;
  for (const auto& item : items) {
    healthy &= item.healthy;
  }
  if (flags.json) {
    print_json(streams, state, services->kind(), items, healthy, apps, registered);
  } else {
    print_text(streams, state, services->description(), items);
  }
  return healthy ? cli::k_exit_ok : cli::k_exit_failure;
}

}  // namespace

void add_status(cli::Command& program, const cli::Streams& streams) {
  auto flags = std::make_shared<Flags>();
  auto& verb = program.verb("status", "services, KMS, image pin, apps; exit code 0 when all is healthy");
  verb.option("--prefix", flags->prefix, "the installation below this directory");
  verb.flag("-j,--json", flags->json, "print JSON");
  verb.examples("dstackup status\ndstackup status --json --prefix /opt/dstack-test");
  verb.action(
      [flags, &streams] { return report(streams, flags->json, [&] { return status(*flags, streams); }); });
}

}  // namespace dstack::dstackup
