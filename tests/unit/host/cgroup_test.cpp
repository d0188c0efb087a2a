#include "host/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

// The kernel's files of a cgroup, as ordinary ones: what would be written is then in them.
void make_cgroup(const fs::path& directory, std::initializer_list<const char*> files) {
  fs::create_directories(directory);
  for (const auto* file : files) {
    std::ofstream(directory / file).flush();
  }
}

TEST(CgroupLimits, AreWrittenAndTheirControllersHandedDown) {
  const test::TempDir root;
  make_cgroup(root / "ours", {"cgroup.subtree_control"});
  make_cgroup(root / "ours/vms", {"cgroup.subtree_control"});
  make_cgroup(root / "ours/vms/1", {"memory.max", "pids.max", "cpu.max"});
  const Cgroup cgroup((root / "ours/vms/1").string());
  EXPECT_THAT(cgroup.limit({.memory_bytes = 3'000'000'000, .tasks = 162, .cpu_percent = 300}), IsEmpty());
  EXPECT_EQ(base::read_file(root / "ours/vms/1/memory.max"), "3000000000");
  EXPECT_EQ(base::read_file(root / "ours/vms/1/pids.max"), "162");
  EXPECT_EQ(base::read_file(root / "ours/vms/1/cpu.max"), "300000 100000");
  // Each controller is written by itself: one that is missing must not keep the others away.
  EXPECT_THAT(*base::read_file(root / "ours/vms/cgroup.subtree_control"), testing::StartsWith("+cpu"));
  EXPECT_THAT(*base::read_file(root / "ours/cgroup.subtree_control"), testing::StartsWith("+cpu"));
}

TEST(CgroupLimits, ThoseThatAreNotThereAreNamedAndNoFileIsMade) {
  const test::TempDir root;
  make_cgroup(root / "vms/1", {"pids.max"});
  const Cgroup cgroup((root / "vms/1").string());
  EXPECT_THAT(cgroup.limit({.memory_bytes = 1, .tasks = 2, .cpu_percent = 100}),
              ElementsAre("memory", "cpu"));
  EXPECT_EQ(base::read_file(root / "vms/1/pids.max"), "2");
  EXPECT_FALSE(fs::exists(root / "vms/1/memory.max"));
  EXPECT_FALSE(fs::exists(root / "cgroup.subtree_control"));
  EXPECT_THAT(cgroup.limit({}), IsEmpty()) << "no limit is wanted, so none is missing";
}

// Purge took "cannot be read" for "there is none", and left an empty cgroup.
TEST(FindCgroup2Mount, ATableThatCannotBeReadIsAnError) {
  const auto mount = find_cgroup2_mount("/nonexistent/mounts");
  ASSERT_FALSE(mount);
  EXPECT_EQ(mount.error().code, base::Code::not_found);
}

}  // namespace
}  // namespace dstack::host
