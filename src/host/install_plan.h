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
#include "host/key_provider.h"
#include "host/layout.h"
#include "host/named_programs.h"
#include "host/platform.h"
#include "host/ports.h"
#include "host/programs.h"
#include "host/release.h"
#include "host/state.h"

namespace dstack::host {

// Flags as given; absent ones take what is installed, then the default.
struct InstallOptions {
  std::optional<std::string> prefix;
  std::optional<std::string> instance;
  std::string platform = "auto";
  std::optional<std::string> image;
  std::optional<std::uint16_t> dashboard_port, auth_port, host_api_port, kms_port, key_provider_port;
  std::optional<std::uint32_t> cid_start;
  std::optional<std::string> kms_image;
  bool no_kms = false;
  bool allow_unpinned_image = false;
  std::optional<std::string> qemu;
  std::optional<std::string> programs_from, vmm_bin, auth_bin, supervisor_bin;
  bool skip_managed_binaries = false;
  std::optional<std::string> bin_dir, libexec_dir, share_dir;
  std::optional<std::string> image_path;
  std::optional<std::string> release_api;            // where an image that is not here is pulled from
  std::optional<std::string> expose;                 // IP address, "none" takes it back
  std::optional<std::string> existing_key_provider;  // ADDRESS:PORT
  std::optional<std::string> key_provider_src;
  bool no_start = false;
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
  std::optional<InstallState> state;     // of the running installation
  std::optional<InstallState> last;      // of one that was taken down without --purge
  std::optional<PlatformKind> platform;  // asked for, installed or found; nullopt: there is none
  std::optional<Image> image;            // chosen
  // A release to be pulled instead: there is no such image here. Without a version: the latest.
  std::optional<ReleaseWish> image_to_pull;
  // Why there is no usable platform, record or image. A plan fails with them; doctor goes on.
  std::optional<base::Error> platform_problem, state_problem, image_problem;
  std::vector<std::string> image_users;        // VMs that use the image of the record
  std::vector<app::VerityVolume> kms_volumes;  // that hold the KMS image
  bool kms_image_in_volume = false;
  std::optional<ProgramSet> programs;               // to be copied; absent when some are missing
  NamedPrograms named;                              // to be run as they are
  std::string programs_version;                     // what dstack-vmm says; "" = it does not run here
  std::string programs_note;                        // "" = nothing to say about the choice
  std::filesystem::path auth_program, vmm_program;  // empty = not found
  std::filesystem::path program_directory;          // where they were looked for
  std::string qemu;                                 // full path, empty = not found
  Coexistence others;
  // Ports that our own running parts hold.
  bool auth_running = false, vmm_running = false, kms_running = false;
  // Ours too, but without a supervisor that could be asked: they are ended before others are started.
  bool auth_stray = false, vmm_stray = false;
  bool vms_running = false;  // any of ours
  // Sets of programs that the running services were started from, "" = unknown.
  std::string auth_set, vmm_set;
  std::string service_manager;  // "systemd" or "supervisor"
  std::optional<std::uint64_t> memory_mib, disk_mib;
  PortTest port_is_free = host::port_is_free;
  std::string cgroup_root;  // for VMs, "" = none
};
// Reads only. Fails on flags that mean nothing: bad paths and names.
base::Result<InstallFacts> gather_facts(const InstallOptions& options);

// The KMS's container image: asked for, installed, or the default.
std::string kms_image_reference(const InstallOptions& options, const InstallFacts& facts);

// The TCP ports of the installation: what the flags say, else what is installed, else the defaults; the KMS's
// may be picked.
struct PortPlan {
  std::uint16_t dashboard = 0, auth = 0, host_api = 0;
  std::uint16_t kms = 0;           // 0 = no KMS
  std::uint16_t key_provider = 0;  // 0 = the platform needs none
  std::vector<PlannedPort> all;
};
base::Result<PortPlan> plan_ports(const InstallOptions& options, const InstallFacts& facts);

// A TCP port of the installation, for the printed plan.
struct PortUse {
  std::string flag;  // that sets it
  std::uint16_t port = 0;
  std::string user;    // unit, or "KMS"
  std::string why;     // what it is for
  std::string origin;  // "as given", "as installed", "the default", "the first free one"
};

struct InstallPlan {
  Layout layout;
  std::string instance;
  std::string platform;
  std::string vmm_unit, auth_unit;
  std::string image;              // name, "" = none
  std::string image_to_pull;      // release that is pulled first, for people; then the name is not known yet
  std::string os_image_hash;      // "" = unpinned
  std::string former_image_hash;  // pinned before and needed by nobody: is taken back; "" = none
  bool allow_any_image = false;   // --allow-unpinned-image, and the image has no digest
  std::uint16_t dashboard_port = 0, auth_port = 0, host_api_port = 0;
  std::uint16_t kms_port = 0;  // 0 = no KMS
  std::uint32_t cid_start = 0;
  std::vector<PortUse> ports;
  std::string cid_origin;
  // What the running services were started with is not what this plan says.
  bool auth_outdated = false, vmm_outdated = false;
  bool kms_up = false;  // its VM runs and its root is pinned
  std::string kms_image;
  std::vector<app::VerityVolume> kms_volumes;
  std::string qemu;
  std::optional<ProgramSet> programs;  // that the installation gets a copy of
  NamedPrograms named;
  std::filesystem::path auth_program, vmm_program;  // in that copy, or named
  std::string cgroup_root;
  std::string expose;  // address on which the VMM's API is served over TLS, "" = none
  KeyProviderPlan key_provider;
  bool start = true;   // false: only configure
  InstallState state;  // as it will be written; KMS id and pin are carried over
  std::vector<std::string> warnings;
};
// What does not follow from the flags and what is installed is refused; the error names the flag and the fix.
// What the host lacks is for the checks in host/doctor.h.
base::Result<InstallPlan> make_plan(const InstallOptions& options, const InstallFacts& facts);

}  // namespace dstack::host
