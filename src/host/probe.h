// How checks see the machine. Tests replace the root of the file system and the functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/kms_contact.h"
#include "host/layout.h"
#include "host/service_manager.h"

namespace dstack::host {

struct Probe {
  std::filesystem::path root = "/";  // of /proc, /sys, /dev, /run
  // 0, or the errno of opening the device for reading and writing.
  std::function<int(const std::filesystem::path& device)> open_device;
  // What QEMU prints when it is run with these arguments.
  std::function<base::Result<std::string>(const std::string& qemu, const std::vector<std::string>& arguments)>
      ask_qemu;
  std::function<std::optional<std::string>(const std::string& tool)> find_tool;
  std::function<std::int64_t()> now;    // seconds since 1970
  std::function<bool()> clock_is_kept;  // by a time service
  std::function<base::Result<ServiceStatus>(const std::string& name)> service;
  std::function<std::vector<std::string>(const std::string& name, std::size_t lines)> service_log;
  // What the webhook says of its own health; an error is why not.
  std::function<base::Result<>(std::uint16_t port)> ask_auth;
  // One line about the VMs, from the VMM's API with the installation's token.
  std::function<base::Result<std::string>(const Layout& layout, const InstallState& state)> ask_vmm;
  std::function<base::Result<KmsContact>(const KmsExpectation& expected)> contact_kms;

  std::filesystem::path at(std::string_view absolute) const { return root / absolute.substr(1); }
};

// The real machine without services, which preflight has no need of.
Probe machine_probe();
// Adds those of an installation, the webhook's own answer too. `services` must outlive the probe; ask_vmm is
// the caller's, that client is in a higher layer.
void add_services(Probe& probe, ServiceManager& services);

}  // namespace dstack::host
