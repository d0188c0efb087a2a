#include "vmm/vm_user.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::vmm {
namespace {

TEST(VmUser, IsTheSameForAVmAndAnotherForAnother) {
  const test::TempDir proc;
  const auto one = pick_vm_user("vm-1", false, proc.path());
  ASSERT_TRUE(one) << one.error().what();
  EXPECT_GE(one->uid, k_first_vm_uid);
  EXPECT_LE(one->uid, k_last_vm_uid);
  EXPECT_EQ(one->gid, one->uid);
  EXPECT_TRUE(one->groups.empty());
  EXPECT_EQ(pick_vm_user("vm-1", false, proc.path())->uid, one->uid);
  EXPECT_NE(pick_vm_user("vm-2", false, proc.path())->uid, one->uid);
}

TEST(VmUser, OneThatAProcessHasIsNotTaken) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can give a file away";
  }
  const test::TempDir proc;
  const auto first = pick_vm_user("vm-1", false, proc.path());
  ASSERT_TRUE(first);
  // The next one of the range is in use as well.
  for (const auto& [pid, uid] : {std::pair{"17", first->uid}, std::pair{"18", first->uid + 1}}) {
    std::filesystem::create_directory(proc / pid);
    ASSERT_EQ(::chown((proc / pid).c_str(), uid, uid), 0);
  }
  std::filesystem::create_directory(proc / "sys");
  EXPECT_EQ(pick_vm_user("vm-1", false, proc.path())->uid, first->uid + 2);
}

TEST(VmUser, ADeviceIsOpenByItsModeOrItsGroup) {
  const test::TempDir lab;
  const auto device = lab / "kvm";
  ASSERT_TRUE(base::write_file_atomic(device, ""));
  const auto with_mode = [&](mode_t mode) {
    ::chmod(device.c_str(), mode);
    return device_access(device);
  };
  EXPECT_TRUE(with_mode(0666).open);
  EXPECT_FALSE(with_mode(0666).group);
  EXPECT_FALSE(with_mode(0600).open);
  EXPECT_FALSE(with_mode(0664).open) << "reading is not enough";
  EXPECT_FALSE(device_access(lab / "missing").open);
  if (::geteuid() == 0) {
    EXPECT_FALSE(with_mode(0660).open) << "root's group is not given to VMs";
    ASSERT_EQ(::chown(device.c_str(), 0, 104), 0);
    EXPECT_EQ(with_mode(0660).group, gid_t{104});
    EXPECT_FALSE(with_mode(0640).open);
  }
}

TEST(VmUser, OnlyRootCanGiveUsersAway) {
  EXPECT_TRUE(vm_users(/*systemd=*/true).separate);
  const auto users = vm_users(/*systemd=*/false);
  EXPECT_FALSE(users.description.empty());
  if (::geteuid() != 0) {
    EXPECT_FALSE(users.separate);
  }
}

}  // namespace
}  // namespace dstack::vmm
