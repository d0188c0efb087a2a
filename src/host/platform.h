// Facts about the host, read only: TEE platforms, memory, disk space (spec/host.md sections 1.3 and 1.12).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dstack::host {

enum class PlatformKind { tdx, amd_sev_snp, simulated };
std::string_view to_string(PlatformKind kind);

// "tdx", "amd-sev-snp", "sev-snp", "snp", "simulated"; "auto" gives nullopt. Code::invalid_argument else.
base::Result<std::optional<PlatformKind>> parse_platform(std::string_view text);

// Whether a flags line of a cpuinfo text has the word.
bool has_cpu_flag(std::string_view cpuinfo, std::string_view flag);
// From the flags lines of a cpuinfo text: sev_snp, else tdx_host_platform, else nothing.
std::optional<PlatformKind> detect_platform(std::string_view cpuinfo);

// What `install` may use. nullopt (auto) takes what /proc/cpuinfo says and is Code::no_platform when that is
// nothing: simulated is only used when asked for. TDX and SNP are Code::unsupported: this version does not
// launch them.
base::Result<PlatformKind> choose_platform(std::optional<PlatformKind> wanted,
                                           const std::filesystem::path& proc = "/proc");

// MemAvailable in MiB; nullopt when it cannot be read.
std::optional<std::uint64_t> available_memory_mib(const std::filesystem::path& proc = "/proc");
// Free for root on the file system of the nearest existing parent of `path`, in MiB.
std::optional<std::uint64_t> free_disk_mib(const std::filesystem::path& path);

}  // namespace dstack::host
