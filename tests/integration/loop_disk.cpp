#include "integration/loop_disk.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "base/process.h"

namespace dstack::test {

namespace fs = std::filesystem;

LoopDisk::LoopDisk(fs::path directory, std::string type)
    : m_image(directory / ("disk." + type)), m_mount_point(directory / "mnt"), m_type(std::move(type)) {}

LoopDisk::~LoopDisk() {
  if (m_mounted) {
    ::umount(m_mount_point.c_str());
  }
  std::error_code ignored;
  fs::remove(m_image, ignored);
  fs::remove(m_mount_point, ignored);
}

std::string LoopDisk::set_up() {
  const auto make = "mkfs." + m_type;
  if (!base::find_tool(make)) {
    return base::format("{} is not installed", make);
  }
  fs::create_directory(m_mount_point);
  std::ofstream(m_image).close();
  // Sparse; mkfs.xfs makes none below 300 MiB.
  fs::resize_file(m_image, 320 << 20);
  const char* const force = m_type == "ext4" ? "-F" : "-f";
  const auto made = base::run_checked({.argv = {make, "-q", force, m_image.string()}});
  return made ? mount() : made.error().what();
}

std::string LoopDisk::cut_power(const std::function<void()>& end_programs) {
  constexpr unsigned long k_shutdown = _IOR('X', 125, std::uint32_t);
  std::uint32_t no_log_flush = 2;
  {
    const base::Fd fd(::open(m_mount_point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (::ioctl(fd.get(), k_shutdown, &no_log_flush) != 0) {
      return base::format("stopping {}: {}", m_type, std::strerror(errno));
    }
  }
  if (end_programs) {
    end_programs();
  }
  // What was killed may hold it a moment longer.
  for (int i = 0; ::umount(m_mount_point.c_str()) != 0; ++i) {
    if (errno != EBUSY || i == 500) {
      return base::format("unmounting {}: {}", m_type, std::strerror(errno));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  m_mounted = false;
  return mount();
}

std::string LoopDisk::mount() {
  // Without the heuristic of ext4 that repairs programs which forget to sync; xfs has no switch for its own.
  const std::string options = m_type == "ext4" ? "loop,noauto_da_alloc" : "loop";
  const auto mounted = base::run_checked(
      {.argv = {"mount", "-t", m_type, "-o", options, m_image.string(), m_mount_point.string()}});
  m_mounted = mounted.has_value();
  return mounted ? std::string() : mounted.error().what();
}

std::string own_mounts() {
  if (::geteuid() != 0) {
    return "mounting needs root";
  }
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return base::format("no mount namespace of its own: {}", std::strerror(errno));
  }
  return {};
}

}  // namespace dstack::test
