// What other VM managers on this host occupy (spec/host.md sections 1.4 and 1.12). Our own is never counted.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::host {

// Half-open; 64 bits wide, so that a window may end at 2^32.
struct CidRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool operator==(const CidRange&) const = default;
};

struct OtherVmm {
  pid_t pid = 0;
  std::string config;
};

struct Coexistence {
  std::vector<OtherVmm> vmms;
  std::vector<CidRange> cids;                 // configured pools and CIDs of running VMs, sorted
  std::vector<std::uint32_t> host_api_ports;  // sorted, unique
  std::vector<std::uint16_t> kms_ports;       // of their KMSs, which may not run yet; sorted, unique
};

struct OwnInstall {
  std::filesystem::path vmm_toml;   // a dstack-vmm with this configuration is ours
  std::filesystem::path vms;        // a process that names a path below it is one of our VMs
  std::vector<pid_t> vm_processes;  // and so are these
};

// Scans `proc`. Unreadable entries are skipped.
Coexistence scan_other_vmms(const OwnInstall& own, const std::filesystem::path& proc = "/proc");

// Line scan of another VMM's configuration, tolerant as section 1.12 says.
std::optional<CidRange> read_cid_pool(std::string_view config);
std::optional<std::uint32_t> read_host_api_port(std::string_view config);
std::vector<std::uint16_t> read_kms_ports(std::string_view config);

inline constexpr std::uint32_t k_cid_pool_size = 1000;

// Section 1.4. Code::cid_conflict names the next free block, or says that there is none.
base::Result<std::uint32_t> choose_cid_start(std::optional<std::uint32_t> wanted,
                                             const std::vector<CidRange>& occupied);

}  // namespace dstack::host
