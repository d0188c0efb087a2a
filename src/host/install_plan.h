// What an installation will be, worked out before anything is touched: options + facts -> plan (spec/host.md
// sections 1.3 to 1.8).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "app/app_compose.h"
#include "base/result.h"
#include "host/coexistence.h"
#include "host/image.h"
#include "host/layout.h"
#include "host/platform.h"
#include "host/ports.h"
#include "host/state.h"

namespace dstack::host {

// Flags as given; absent ones take what is installed, then the default.
struct InstallOptions {
  std::optional<std::string> prefix;
  std::optional<std::string> instance;
  std::string platform = "auto";
  std::optional<std::string> image;
  std::optional<std::uint16_t> dashboard_port, auth_port, host_api_port, kms_port;
  std::optional<std::uint32_t> cid_start;
  std::optional<std::string> kms_image;
  bool no_kms = false;
  bool allow_unpinned_image = false;
  std::optional<std::string> qemu;
  std::optional<std::string> bin_dir;
};

inline constexpr std::uint16_t k_default_dashboard_port = 9080;
inline constexpr std::uint16_t k_default_auth_port = 8001;
inline constexpr std::uint16_t k_default_host_api_port = 10000;
inline constexpr std::uint16_t k_first_kms_port = 12443;  // the first free one from here

// What the host looks like. gather_facts() fills it; tests make their own.
struct InstallFacts {
  bool root = false;
  Layout layout;
  std::string instance;
  std::optional<InstallState> state;  // of the running installation
  std::optional<InstallState> last;   // of one that was taken down without --purge
  PlatformKind platform = PlatformKind::simulated;
  std::optional<Image> image;                  // chosen
  std::vector<app::VerityVolume> kms_volumes;  // that hold the KMS image
  bool kms_image_in_volume = false;
  std::filesystem::path auth_program, vmm_program;  // empty = not found
  std::filesystem::path program_directory;          // where they were looked for
  std::string qemu;                                 // full path, empty = not found
  Coexistence others;
  // Ports that our own running parts hold.
  bool auth_running = false, vmm_running = false, kms_running = false;
  std::optional<std::uint64_t> memory_mib, disk_mib;
  PortTest port_is_free = host::port_is_free;
  std::string cgroup_root;  // for VMs, "" = none
};
// Reads only. Fails on what makes planning impossible: bad paths, a corrupt state file, an unknown or missing
// platform, an image that was named and does not exist.
base::Result<InstallFacts> gather_facts(const InstallOptions& options);

struct InstallPlan {
  Layout layout;
  std::string instance;
  std::string platform;
  std::string vmm_unit, auth_unit;
  std::string image;          // name, "" = none
  std::string os_image_hash;  // "" = unpinned
  std::uint16_t dashboard_port = 0, auth_port = 0, host_api_port = 0;
  std::uint16_t kms_port = 0;  // 0 = no KMS
  std::uint32_t cid_start = 0;
  std::string kms_image;
  std::vector<app::VerityVolume> kms_volumes;
  std::string qemu;
  std::filesystem::path auth_program, vmm_program;
  std::string cgroup_root;
  InstallState state;  // as it will be written; KMS id and pin are carried over
  std::vector<std::string> warnings;
};
// Every check that needs no side effect. The error names the flag and the fix.
base::Result<InstallPlan> make_plan(const InstallOptions& options, const InstallFacts& facts);

}  // namespace dstack::host
