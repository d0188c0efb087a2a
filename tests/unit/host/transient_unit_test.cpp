#include "host/transient_unit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/host/fake_systemd.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class TransientUnitTest : public testing::Test {
 protected:
  TransientUnitTest() : m_systemd((m_directory / "systemd").string()) {
    m_unit.name = "dstack-vm-1";
    m_unit.description = "a VM";
    m_unit.argv = {"/usr/bin/qemu-system-x86_64", "-nodefaults"};
  }

  test::TempDir m_directory;
  test::FakeSystemd m_systemd;
  TransientUnit m_unit;
};

TEST_F(TransientUnitTest, StartsAndTellsTheMainPid) {
  m_systemd.behaviour().on_job = [](const std::string&, test::FakeSystemd::Unit& unit) {
    unit.text["ActiveState"] = "active";
    unit.numbers["MainPID"] = 4711;
  };
  const auto pid = start_transient_unit(m_unit, m_systemd.address());
  ASSERT_TRUE(pid) << pid.error().what();
  EXPECT_EQ(*pid, 4711);
  EXPECT_THAT(m_systemd.calls(), ElementsAre("StartTransientUnit dstack-vm-1.service"));
  const auto status = transient_unit_status("dstack-vm-1", m_systemd.address());
  ASSERT_TRUE(status);
  EXPECT_TRUE(status->alive);
  EXPECT_EQ(status->main_pid, 4711);
}

TEST_F(TransientUnitTest, OneThatRunsIsLocked) {
  m_systemd.behaviour().fails = "StartTransientUnit";
  m_systemd.behaviour().error = "org.freedesktop.systemd1.UnitExists";
  EXPECT_EQ(start_transient_unit(m_unit, m_systemd.address()).error().code, base::Code::locked);
}

TEST_F(TransientUnitTest, AFailureSaysHow) {
  m_systemd.behaviour().job_result = "failed";
  m_systemd.behaviour().on_job = [](const std::string&, test::FakeSystemd::Unit& unit) {
    unit.text["Result"] = "exit-code";
    unit.integers["ExecMainStatus"] = 203;
  };
  const auto pid = start_transient_unit(m_unit, m_systemd.address());
  ASSERT_FALSE(pid);
  EXPECT_EQ(pid.error().code, base::Code::service_failed);
  EXPECT_THAT(pid.error().what(), HasSubstr("exit-code 203"));
}

TEST_F(TransientUnitTest, StopsListsAndTellsWhatIsUnknown) {
  m_systemd.listed = {"dstack-vm-1.service", "dstack-vm-2.service"};
  EXPECT_THAT(*list_transient_units("dstack-vm-*", m_systemd.address()),
              ElementsAre("dstack-vm-1", "dstack-vm-2"));
  EXPECT_TRUE(stop_transient_unit("dstack-vm-1", m_systemd.address()));
  m_systemd.behaviour().fails = "StopUnit";
  EXPECT_TRUE(stop_transient_unit("dstack-vm-1", m_systemd.address()));
  EXPECT_FALSE(transient_unit_status("dstack-vm-1", m_systemd.address())->alive);
}

TEST_F(TransientUnitTest, KillsAllOfIt) {
  EXPECT_TRUE(kill_transient_unit("dstack-vm-1", m_systemd.address()));
  EXPECT_THAT(m_systemd.calls(), ElementsAre("KillUnit dstack-vm-1.service"));
  m_systemd.behaviour().fails = "KillUnit";
  EXPECT_TRUE(kill_transient_unit("dstack-vm-1", m_systemd.address())) << "one that is gone is no error";
  m_systemd.behaviour().error = "org.freedesktop.DBus.Error.AccessDenied";
  EXPECT_EQ(kill_transient_unit("dstack-vm-1", m_systemd.address()).error().code, base::Code::permission);
}

TEST_F(TransientUnitTest, IsWrittenDownAsAUnitFile) {
  m_unit.argv.emplace_back("a b%n");
  m_unit.own_user = "dstack-1";
  m_unit.groups = {"104"};
  m_unit.devices = {"/dev/kvm"};
  m_unit.directory = "/var/lib/dstack/vm/1";
  m_unit.readable_paths = {"/usr/bin", "/root/bin"};
  m_unit.memory_max = 1U << 30U;
  m_unit.tasks_max = 162;
  m_unit.cpu_percent = 300;
  const auto text = render_transient_unit(m_unit);
  ASSERT_TRUE(text) << text.error().what();
  for (const auto* line :
       {"ExecStart=\":/usr/bin/qemu-system-x86_64\" \"-nodefaults\" \"a b%%n\"\n", "User=dstack-1\n",
        "DynamicUser=yes\n", "SupplementaryGroups=\"104\"\n", "DeviceAllow=/dev/kvm rw\n",
        "WorkingDirectory=-/var/lib/dstack/vm/1\n", "ProtectHome=tmpfs\nBindReadOnlyPaths=\"-/root/bin\"\n",
        "MemoryMax=1073741824\n", "TasksMax=162\n", "CPUQuota=300%\n", "CapabilityBoundingSet=\n",
        "NoNewPrivileges=yes\n",
        "SystemCallFilter=@system-service seccomp\nSystemCallFilter=~@privileged @resources\n"}) {
    EXPECT_THAT(*text, HasSubstr(line));
  }
}

TEST_F(TransientUnitTest, WhatCannotBeExpressedIsRefused) {
  auto unit = m_unit;
  unit.argv.clear();
  EXPECT_FALSE(start_transient_unit(unit, m_systemd.address()));
  unit.argv = {"relative"};
  EXPECT_FALSE(start_transient_unit(unit, m_systemd.address()));
  unit = m_unit;
  unit.argv.emplace_back("a\0b", 3);
  EXPECT_FALSE(start_transient_unit(unit, m_systemd.address()));
  unit = m_unit;
  unit.name = "../x";
  EXPECT_FALSE(start_transient_unit(unit, m_systemd.address()));
  unit = m_unit;
  unit.directory = "\xff";
  EXPECT_FALSE(start_transient_unit(unit, m_systemd.address()));
  EXPECT_THAT(m_systemd.calls(), testing::IsEmpty());
}

}  // namespace
}  // namespace dstack::host
