#include "host/platform.h"

#include <sys/statvfs.h>

#include <sstream>

#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

using base::Code;
using base::Result;

std::string_view to_string(PlatformKind kind) {
  switch (kind) {
    case PlatformKind::tdx:
      return "tdx";
    case PlatformKind::amd_sev_snp:
      return "amd-sev-snp";
    case PlatformKind::simulated:
      return "simulated";
  }
  return "";
}

Result<std::optional<PlatformKind>> parse_platform(std::string_view text) {
  if (text == "auto") {
    return std::optional<PlatformKind>();
  }
  if (text == "tdx") {
    return PlatformKind::tdx;
  }
  if (text == "amd-sev-snp" || text == "sev-snp" || text == "snp") {
    return PlatformKind::amd_sev_snp;
  }
  if (text == "simulated") {
    return PlatformKind::simulated;
  }
  return base::fail(Code::invalid_argument, base::format("--platform '{}' is not known", text),
                    "use auto, tdx, amd-sev-snp or simulated");
}

bool has_cpu_flag(std::string_view cpuinfo, std::string_view flag) {
  std::istringstream lines{std::string(cpuinfo)};
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("flags")) {
      continue;
    }
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word == flag) {
        return true;
      }
    }
  }
  return false;
}

std::optional<PlatformKind> detect_platform(std::string_view cpuinfo) {
  if (has_cpu_flag(cpuinfo, "sev_snp")) {
    return PlatformKind::amd_sev_snp;
  }
  return has_cpu_flag(cpuinfo, "tdx_host_platform") ? std::optional(PlatformKind::tdx) : std::nullopt;
}

Result<PlatformKind> choose_platform(std::optional<PlatformKind> wanted, const std::filesystem::path& proc) {
  if (!wanted) {
    const auto cpuinfo = base::read_file(proc / "cpuinfo");
    wanted = cpuinfo ? detect_platform(*cpuinfo) : std::nullopt;
    if (!wanted) {
      return base::fail(Code::no_platform, "this machine offers neither Intel TDX nor AMD SEV-SNP to its VMs",
                        "for development without a TEE: dstackup install --platform simulated");
    }
  }
  if (*wanted != PlatformKind::simulated) {
    return base::fail(Code::unsupported,
                      base::format("this version does not launch VMs on the platform {}", to_string(*wanted)),
                      "for development without a TEE: dstackup install --platform simulated");
  }
  return *wanted;
}

std::optional<std::uint64_t> available_memory_mib(const std::filesystem::path& proc) {
  const auto text = base::read_file(proc / "meminfo");
  if (!text) {
    return std::nullopt;
  }
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string key;
    std::uint64_t kib = 0;
    if (words >> key >> kib && key == "MemAvailable:") {
      return kib / 1024;
    }
  }
  return std::nullopt;
}

std::optional<std::uint64_t> free_disk_mib(const std::filesystem::path& path) {
  std::error_code error;
  auto at = path;
  while (!std::filesystem::exists(at, error) && at.has_relative_path()) {
    at = at.parent_path();
  }
  struct statvfs info = {};
  if (::statvfs(at.c_str(), &info) != 0) {
    return std::nullopt;
  }
  return std::uint64_t{info.f_bfree} * info.f_frsize / (1024 * 1024);
}

}  // namespace dstack::host
