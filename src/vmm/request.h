// Is a CreateVm request acceptable, and what VM does it describe (spec/host.md section 4.8)?
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proto/vmm_rpc.pb.h"
#include "vmm/config.h"
#include "vmm/manifest.h"

namespace dstack::vmm {

struct PlannedVm {
  Manifest manifest;         // id and created_at_ms still empty
  std::string compose_file;  // bytes as sent
  std::string user_config;
  std::string encrypted_env;  // raw bytes
  std::optional<std::string> app_id_from_request;
};

// All checks that need nothing but the request and the configuration. Codes vm_request, vm_port_denied,
// bad_app_compose.
base::Result<PlannedVm> plan_vm(const Config& config, const ::vmm::VmConfiguration& request);

// Name characters: ASCII letters and digits and "-_. @~!$^()"; may be empty; at most 128.
base::Result<> check_vm_name(std::string_view name);

// Do two mappings claim the same host port? Wildcard addresses overlap all.
bool ports_overlap(const PortForward& a, const PortForward& b);

// Can this host port be bound now? Code::vm_port_taken names the port and, when it can be found, nobody else.
base::Result<> check_port_free(const PortForward& port);
// A free loopback TCP port.
base::Result<std::uint16_t> pick_loopback_port();

}  // namespace dstack::vmm
