#include "host/probe.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>

#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

TEST(Probe, OpensDevices) {
  const auto probe = machine_probe();
  EXPECT_EQ(probe.open_device("/dev/null"), 0);
  EXPECT_EQ(probe.open_device("/dev/no-such-device"), ENOENT);
  EXPECT_EQ(probe.at("/proc/cpuinfo"), "/proc/cpuinfo");
}

TEST(Probe, AsksQemu) {
  const auto probe = machine_probe();
  EXPECT_EQ(*probe.ask_qemu("/bin/echo", {"--object", "help"}), "--object help\n");
  EXPECT_FALSE(probe.ask_qemu("/bin/false", {"--version"}));
  EXPECT_FALSE(probe.ask_qemu("/no/such/program", {"--version"}));
}

TEST(Probe, FindsToolsAndTime) {
  const auto probe = machine_probe();
  EXPECT_TRUE(probe.find_tool("sh"));
  EXPECT_FALSE(probe.find_tool("no-such-tool"));
  EXPECT_NEAR(static_cast<double>(probe.now()), static_cast<double>(std::time(nullptr)), 2);
}

TEST(Probe, ServicesAreThoseOfTheManager) {
  const test::TempDir dir;
  ServiceManagerOptions options;
  options.layout = *Layout::make((dir / "p").string());
  options.may_start = false;
  const auto manager = make_supervisor_manager(options);
  auto probe = machine_probe();
  EXPECT_FALSE(probe.service);
  add_services(probe, *manager);
  const auto status = probe.service("x");
  ASSERT_TRUE(status);
  EXPECT_EQ(status->state, ServiceState::unknown);
  EXPECT_TRUE(probe.service_log("x", 3).empty());
}

}  // namespace
}  // namespace dstack::host
