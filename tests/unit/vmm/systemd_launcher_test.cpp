#include "vmm/systemd_launcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fs.h"
#include "base/process.h"
#include "unit/temp_dir.h"
#include "vmm/passed_files.h"

namespace dstack::vmm {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

ProcessSpec sample(bool kvm) {
  LaunchSpec launch;
  launch.accelerator.kvm = kvm;
  launch.directory = "/var/lib/dstack/vm/0b0f7a4e-92c7-4d3e-8e0c-6f6f2f6f0001";
  launch.kernel = "/var/lib/dstack/images/x/bzImage";
  launch.initrd = "/var/lib/dstack/images/x/initrd";
  launch.cmdline = "console=ttyS0 quiet";
  launch.memory_mb = 2048;
  launch.vcpus = 2;
  auto command = qemu_command(launch);
  ProcessSpec spec;
  spec.vm_id = launch.directory.filename();
  spec.directory = launch.directory;
  spec.stdout_log = launch.directory / "stdout.log";
  spec.stderr_log = launch.directory / "stderr.log";
  spec.argv = std::move(command.argv);
  spec.files = std::move(command.files);
  spec.kvm = kvm;
  spec.limits = qemu_limits(launch);
  return spec;
}

// `systemd-analyze` over the unit; nullopt where it is not installed.
std::optional<base::Output> analyze(std::vector<std::string> words, std::string text) {
  if (!base::find_tool("systemd-analyze")) {
    return std::nullopt;
  }
  const test::TempDir directory;
  const auto path = directory / "dstack-vm-x.service";
  EXPECT_TRUE(base::write_file_atomic(path, text));
  base::Command command;
  command.argv = std::move(words);
  command.argv.insert(command.argv.begin(), "systemd-analyze");
  command.argv.push_back(path.string());
  command.environment = {"SYSTEMD_LOG_LEVEL=warning"};
  const auto output = base::run(command);
  EXPECT_TRUE(output);
  return *output;
}

TEST(SystemdLauncher, TheUnitOfAVmIsExposedAsLittleAsCanBe) {
  for (const bool kvm : {false, true}) {
    const auto text = host::render_transient_unit(vm_unit(sample(kvm)));
    ASSERT_TRUE(text) << text.error().what();
    const auto output = analyze({"security", "--offline=yes", "--no-pager", "--threshold=20"}, *text);
    if (!output) {
      GTEST_SKIP() << "systemd-analyze is not installed";
    }
    EXPECT_EQ(output->exit_code, 0) << output->out << output->err;
    const auto verified = analyze({"verify", "--man=no"}, *text);
    EXPECT_THAT(verified->err, Not(HasSubstr("dstack-vm-x"))) << verified->err;
  }
}

TEST(SystemdLauncher, TheUnitHasAUserOfItsOwnAndTheVmsLimits) {
  const auto spec = sample(false);
  const auto unit = vm_unit(spec);
  EXPECT_EQ(unit.name, "dstack-vm-0b0f7a4e-92c7-4d3e-8e0c-6f6f2f6f0001");
  EXPECT_TRUE(unit.own_user.starts_with("dstack-"));
  EXPECT_LE(unit.own_user.size(), 31U);
  auto other = spec;
  other.vm_id.back() = '2';
  EXPECT_NE(vm_unit(other).own_user, unit.own_user);
  EXPECT_THAT(unit.devices, IsEmpty());
  EXPECT_THAT(unit.writable_paths, IsEmpty());
  EXPECT_EQ(unit.memory_max, spec.limits.memory_bytes);
  EXPECT_EQ(unit.tasks_max, spec.limits.tasks);
  EXPECT_EQ(unit.cpu_percent, 300U);
  EXPECT_EQ(unit.argv.at(1), k_run_vm);
  EXPECT_EQ(unit.argv.at(2), spec.argv.front());
  EXPECT_THAT(vm_unit(sample(true)).devices, testing::ElementsAre("/dev/kvm"));
}

}  // namespace
}  // namespace dstack::vmm
