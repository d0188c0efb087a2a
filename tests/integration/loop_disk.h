// A file system in a file, whose power can be cut.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace dstack::test {

class LoopDisk {
 public:
  // `type` is ext4 or xfs: those that can be stopped at once. Image and mount point lie in `directory`.
  LoopDisk(std::filesystem::path directory, std::string type);
  ~LoopDisk();
  LoopDisk(const LoopDisk&) = delete;
  LoopDisk& operator=(const LoopDisk&) = delete;

  // Makes the file system and mounts it. Empty, or why this machine cannot.
  std::string set_up();
  const std::filesystem::path& mount_point() const { return m_mount_point; }

  // Everything that is not on the disk is gone; then the programs end, which `end_programs` sees to, and the
  // journal is replayed as after power came back. Empty, or what went wrong.
  std::string cut_power(const std::function<void()>& end_programs = {});

 private:
  std::string mount();

  std::filesystem::path m_image;
  std::filesystem::path m_mount_point;
  std::string m_type;
  bool m_mounted = false;
};

// Lets this process see mounts that nobody else sees. Empty, or why this machine cannot.
std::string own_mounts();

// The types of file systems that the tests of power cuts run on.
inline constexpr const char* k_loop_disk_types[] = {"ext4", "xfs"};

#define DSTACK_NEEDS_LOOP_DISK(disk)                              \
  if (const auto problem = (disk).set_up(); !problem.empty()) {   \
    GTEST_SKIP() << "no such loop file system here: " << problem; \
  }

}  // namespace dstack::test
