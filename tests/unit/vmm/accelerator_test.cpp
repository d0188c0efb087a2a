#include "vmm/accelerator.h"

#include <gtest/gtest.h>

#include "base/fs.h"
#include "base/process.h"
#include "unit/temp_dir.h"

namespace dstack::vmm {
namespace {

TEST(QemuVersion, Parses) {
  const auto version =
      parse_qemu_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright");
  ASSERT_TRUE(version);
  EXPECT_EQ(*version, (QemuVersion{7, 2, 22}));
  EXPECT_EQ(*parse_qemu_version("QEMU emulator version 9.0.0-rc1"), (QemuVersion{9, 0, 0}));
  EXPECT_EQ(*parse_qemu_version("version 10.1"), (QemuVersion{10, 1, 0}));
  for (const auto* bad : {"", "version ", "version x.y", "7.2.1", "version 99999999999.1"}) {
    EXPECT_FALSE(parse_qemu_version(bad)) << bad;
  }
}

TEST(ProbeRom, RunsUnderTcg) {
  const auto qemu = base::find_tool("qemu-system-x86_64");
  if (!qemu) {
    GTEST_SKIP() << "no QEMU here";
  }
  test::TempDir lab;
  ASSERT_TRUE(base::write_file_atomic(lab / "rom", probe_rom()));
  base::Command command;
  command.argv = {*qemu,
                  "-accel",
                  "tcg",
                  "-machine",
                  "q35",
                  "-m",
                  "16",
                  "-display",
                  "none",
                  "-nodefaults",
                  "-no-reboot",
                  "-bios",
                  (lab / "rom").string(),
                  "-device",
                  "isa-debug-exit,iobase=0xf4,iosize=4"};
  command.timeout = std::chrono::seconds(20);
  const auto output = base::run(command);
  ASSERT_TRUE(output) << output.error().what();
  EXPECT_EQ(output->exit_code, 33) << output->err;
}

TEST(ProbeMachine, NamesAMissingQemu) {
  test::TempDir lab;
  const auto machine =
      probe_machine("/nonexistent/qemu", AcceleratorChoice::tcg, lab.path(), /*other_users=*/false);
  ASSERT_FALSE(machine);
  EXPECT_NE(machine.error().what().find("/nonexistent/qemu"), std::string::npos);
  EXPECT_FALSE(machine.error().fix.empty());
}

}  // namespace
}  // namespace dstack::vmm
