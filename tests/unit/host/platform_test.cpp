#include "host/platform.h"

#include <gtest/gtest.h>

#include <fstream>

#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

TEST(Platform, Names) {
  EXPECT_EQ(*parse_platform("auto"), std::nullopt);
  EXPECT_EQ(*parse_platform("tdx"), PlatformKind::tdx);
  for (const char* name : {"amd-sev-snp", "sev-snp", "snp"}) {
    EXPECT_EQ(*parse_platform(name), PlatformKind::amd_sev_snp);
  }
  EXPECT_EQ(*parse_platform("simulated"), PlatformKind::simulated);
  for (const char* name : {"", "TDX", "sim", "none"}) {
    EXPECT_FALSE(parse_platform(name)) << name;
  }
}

TEST(Platform, Detection) {
  EXPECT_EQ(detect_platform(""), std::nullopt);
  EXPECT_EQ(detect_platform("flags\t\t: fpu sev_snp_x tdx_host\n"), std::nullopt);
  EXPECT_EQ(detect_platform("model name : sev_snp\n"), std::nullopt);
  EXPECT_EQ(detect_platform("flags\t\t: fpu tdx_host_platform vme\n"), PlatformKind::tdx);
  EXPECT_EQ(detect_platform("flags : tdx_host_platform\nflags : sev_snp\n"), PlatformKind::amd_sev_snp);
}

TEST(Platform, SimulatedIsNeverChosenSilently) {
  const test::TempDir proc;
  std::ofstream(proc / "cpuinfo") << "flags : fpu\n";
  const auto none = choose_platform(std::nullopt, proc.path());
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, base::Code::no_platform);
  EXPECT_NE(none.error().fix.find("--platform simulated"), std::string::npos);
  EXPECT_EQ(*choose_platform(PlatformKind::simulated, proc.path()), PlatformKind::simulated);
}

TEST(Platform, RealOnesAreRefusedClearly) {
  const test::TempDir proc;
  std::ofstream(proc / "cpuinfo") << "flags : tdx_host_platform\n";
  const auto detected = choose_platform(std::nullopt, proc.path());
  ASSERT_FALSE(detected);
  EXPECT_EQ(detected.error().code, base::Code::unsupported);
  EXPECT_NE(detected.error().message.find("tdx"), std::string::npos);
  EXPECT_EQ(choose_platform(PlatformKind::amd_sev_snp, proc.path()).error().code, base::Code::unsupported);
  // A machine with a TEE may still be told to simulate.
  EXPECT_TRUE(choose_platform(PlatformKind::simulated, proc.path()));
}

TEST(Platform, MemoryAndDisk) {
  const test::TempDir proc;
  EXPECT_EQ(available_memory_mib(proc.path()), std::nullopt);
  std::ofstream(proc / "meminfo") << "MemTotal:  100 kB\nMemAvailable:    2097152 kB\n";
  EXPECT_EQ(available_memory_mib(proc.path()), 2048U);
  EXPECT_TRUE(free_disk_mib(proc / "not/yet/there"));
}

}  // namespace
}  // namespace dstack::host
