#include <algorithm>

#include "app/volume_spec.h"
#include "base/format.h"
#include "base/log.h"
#include "client/deploy.h"
#include "crypto/p256.h"
#include "host/volume.h"

namespace dstack::client {
namespace {

using base::Code;

constexpr std::string_view k_store_directory = "/run/dstack/image-stores/";

// Names are shown, stored and matched; the VMM has the same rule.
base::Result<> check_name(const std::string& name) {
  constexpr std::string_view k_others = "-_. @~!$^()";
  const bool good = !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           k_others.find(c) != std::string_view::npos;
  });
  if (!good) {
    return base::fail(
        Code::invalid_argument,
        base::format("\"{}\" cannot be the name of an app", base::escape_control(name.substr(0, 80))),
        "use 1 to 64 letters, digits, \"-\", \"_\" or \".\"");
  }
  return {};
}

base::Result<> check_kms_id(const std::string& id) {
  const auto der = base::from_hex(id);
  if (!id.empty() && (!der || !crypto::P256PublicKey::from_spki(*der))) {
    return base::fail(Code::invalid_argument, "--key-provider-id is not a public key in hex",
                      "take it from \"dstack info --json\" of another app: appCompose, key_provider_id");
  }
  return {};
}

base::Result<> check_size(std::string_view what, std::uint32_t value) {
  if (value == 0) {
    return base::fail(Code::invalid_argument, base::format("{} must be at least 1", what));
  }
  return {};
}

// Attaches the volumes that hold the compose file's images; an image that none holds is pulled by the guest.
base::Result<> attach_image_volumes(const DeployRequest& request, DeployPlan& plan) {
  const std::vector<std::string> images = plan.compose.images();
  if (!request.state_directory) {
    return {};
  }
  DS_TRY(const auto index, host::VolumeIndex::load(*request.state_directory));
  for (const std::string& image : images) {
    const host::VolumeEntry* volume = index.find_by_image(image);
    if (volume == nullptr) {
      plan.notes.push_back(
          base::format("image {} is in no volume of this host, the VM pulls it from its registry", image));
      continue;
    }
    const app::VerityVolume entry{volume->file, volume->verity_root,
                                  std::string(k_store_directory) + volume->name};
    if (std::find(plan.volumes.begin(), plan.volumes.end(), entry) == plan.volumes.end()) {
      plan.volumes.push_back(entry);
    }
    plan.notes.push_back(base::format("image {} comes from volume {}", image, volume->name));
  }
  return {};
}

}  // namespace

base::Result<DeployPlan> plan_deploy(const DeployRequest& request) {
  DeployPlan plan;
  DS_CHECK(check_name(request.name));
  DS_CHECK(check_size("--vcpu", request.vcpu));
  DS_CHECK(check_size("--memory", request.memory));
  DS_CHECK(check_size("--disk", request.disk));
  DS_CHECK(check_kms_id(request.kms_id));
  DS_TRY(plan.compose, app::parse_compose_file(request.compose_text, request.compose_name));
  DS_CHECK(app::check_port_conflicts(request.ports));
  plan.warnings = plan.compose.warnings;
  for (const app::PortSpec& port : request.ports) {
    if (!plan.compose.may_publish(port.vm_port, port.protocol)) {
      plan.warnings.push_back(
          base::format("no service publishes the VM port {}/{}, so nothing will answer there", port.vm_port,
                       port.protocol));
    }
  }
  plan.volumes = request.volumes;
  DS_CHECK(attach_image_volumes(request, plan));
  DS_CHECK(app::check_volume_targets(plan.volumes));

  app::DeployManifest manifest;
  manifest.name = request.name;
  manifest.docker_compose_file = request.compose_text;
  manifest.kms_enabled = request.kms;
  manifest.key_provider_id = request.kms ? request.kms_id : "";
  manifest.verity_volumes = plan.volumes;
  DS_TRY(plan.app_compose, app::build_app_compose(manifest));
  plan.compose_hash = app::compose_hash(plan.app_compose);
  plan.app_id = app::app_id_from_hash(plan.compose_hash);
  return plan;
}

}  // namespace dstack::client
