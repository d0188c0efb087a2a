// Deploying an app, step by step: plan without any VMM, create with its grant, wait until it answers.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "app/app_compose.h"
#include "app/compose_file.h"
#include "app/port_spec.h"
#include "base/result.h"
#include "client/vmm_client.h"

namespace dstack::client {

struct DeployRequest {
  std::string compose_text;
  std::string compose_name;  // path as given, for messages
  std::string name = "app";
  std::optional<std::string> image;
  std::uint32_t vcpu = 2;
  std::uint32_t memory = 2048;  // MiB
  std::uint32_t disk = 20;      // GiB
  std::vector<app::PortSpec> ports;
  std::vector<app::VerityVolume> volumes;
  bool kms = true;
  std::string kms_id;  // hex SPKI of the KMS root CA, which is measured into the app; "" = any KMS
  std::optional<std::filesystem::path> allowlist;  // where the grant goes
  std::optional<std::filesystem::path>
      state_directory;  // whose volume index is searched for the compose's images
};

struct DeployPlan {
  std::string app_compose;   // bytes
  std::string compose_hash;  // 64 hex digits
  std::string app_id;        // 40 hex digits
  app::ComposeFile compose;
  std::vector<app::VerityVolume> volumes;
  std::vector<std::string> notes;     // where each image comes from
  std::vector<std::string> warnings;  // what will probably not work
};
// Everything that can be known without a VMM.
base::Result<DeployPlan> plan_deploy(const DeployRequest& request);

// What happens meanwhile. Each may be left empty.
struct DeployObserver {
  std::function<void(std::string_view)> step;     // done or begun, once each
  std::function<void(std::string_view)> waiting;  // called every poll
  std::function<void(std::string_view)> warning;
  std::function<bool()> interrupted;  // true ends a wait
};

struct Deployed {
  std::string vm_id;
  std::vector<app::PortSpec> ports;  // with host ports picked
  bool granted = false;              // this call added the allow-list entry
};
// Checks image, name, ports and hash with the VMM, adds the grant, creates the VM. When the VMM refuses, a
// grant that this call added is taken back. Codes: no_image, name_taken, port_in_use, hash_mismatch,
// deploy_refused, and those of VmmClient and AllowlistFile.
base::Result<Deployed> create_app(const VmmClient& vmm, const DeployRequest& request, const DeployPlan& plan,
                                  const DeployObserver& observer);

// Set by tests; the defaults are those of `dstack deploy`.
struct WaitOptions {
  std::chrono::milliseconds timeout{180'000};
  std::chrono::milliseconds poll{200};
  // How long the VMM may be silent meanwhile, since it may be restarted.
  std::chrono::milliseconds vmm_silence{20'000};
  bool probe_ports = true;
};
// Reports boot progress until the guest says "done" and every TCP port answers. Codes: boot_failed with the
// guest's reason, boot_timeout, interrupted.
base::Result<> wait_until_ready(const VmmClient& vmm, const Deployed& deployed,
                                const DeployObserver& observer, const WaitOptions& options = {});

}  // namespace dstack::client
