#include "root.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "base/dm_verity.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/kernel_cmdline.h"

namespace dstack::init {

using base::Code;
using base::fail;
using base::fail_errno;
using base::Fd;
using base::format;
using base::Result;

namespace {

constexpr const char* k_new_root = "/newroot";
constexpr auto k_disk_wait = std::chrono::seconds(10);

struct Mount {
  const char* source;
  const char* target;
  const char* type;
  unsigned long flags;
  const char* options;
};

Result<> mount_one(const Mount& m) {
  if (::mount(m.source, m.target, m.type, m.flags, m.options) != 0) {
    return fail_errno(Code::io, format("cannot mount {} on {}", m.type ? m.type : m.source, m.target), errno);
  }
  return {};
}

Result<> insert_module(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return fail_errno(Code::io, format("cannot open {}", path), errno);
  }
  if (::syscall(SYS_finit_module, fd.get(), "", 0) != 0 && errno != EEXIST) {
    return fail_errno(Code::io, format("cannot insert {}", path), errno);
  }
  return {};
}

std::vector<std::string> block_devices() {
  std::vector<std::string> names;
  if (DIR* directory = ::opendir("/sys/class/block")) {
    while (const dirent* entry = ::readdir(directory)) {
      const std::string_view name = entry->d_name;
      if (name.starts_with("vd")) {
        names.push_back("/dev/" + std::string(name));
      }
    }
    ::closedir(directory);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool has_superblock(const std::string& device, std::uint64_t offset) {
  Fd fd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<std::uint8_t, base::k_verity_superblock_size> block{};
  return fd &&
         ::pread(fd.get(), block.data(), block.size(), static_cast<off_t>(offset)) ==
             static_cast<ssize_t>(block.size()) &&
         base::parse_verity_superblock(block).has_value();
}

// The named device, or the first virtio disk or partition with a hash tree where the command line says it is.
Result<std::string> find_root_disk(const std::string& cmdline, std::uint64_t size) {
  const auto named = base::cmdline_value(cmdline, "dstack.rootfs_device");
  const auto deadline = std::chrono::steady_clock::now() + k_disk_wait;
  while (true) {
    const auto candidates = named ? std::vector<std::string>{*named} : block_devices();
    for (const auto& device : candidates) {
      if (has_superblock(device, size)) {
        return device;
      }
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return fail(Code::not_found,
                  format("no root disk: {} has a dm-verity tree at byte {}",
                         named ? named->c_str() : "no virtio disk", size),
                  "attach the image's root disk, and use the kernel command line of the same image");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

Result<> mount_file_system(const std::string& device) {
  if (::mount(device.c_str(), k_new_root, "squashfs", MS_RDONLY, nullptr) != 0) {
    return fail_errno(Code::io, "the root file system does not match dstack.rootfs_hash or is damaged", errno,
                      "build the image again, or boot the root disk that belongs to this command line");
  }
  return {};
}

// Deletes the initramfs, which is memory. Stays on its file system.
void free_directory(int parent, const char* name, dev_t device) {
  const int fd = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) {
    return;
  }
  DIR* directory = ::fdopendir(fd);
  if (directory == nullptr) {
    ::close(fd);
    return;
  }
  while (const dirent* entry = ::readdir(directory)) {
    const std::string_view child = entry->d_name;
    struct stat info{};
    if (child == "." || child == ".." || ::fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        info.st_dev != device) {
      continue;
    }
    if (S_ISDIR(info.st_mode)) {
      free_directory(fd, entry->d_name, device);
      ::unlinkat(fd, entry->d_name, AT_REMOVEDIR);
    } else {
      ::unlinkat(fd, entry->d_name, 0);
    }
  }
  ::closedir(directory);
}

}  // namespace

Result<> mount_kernel_file_systems() {
  for (const char* directory : {"/proc", "/sys", "/dev", k_new_root}) {
    ::mkdir(directory, 0755);
  }
  DS_CHECK(mount_one({"devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"}));
  if (const int console = ::open("/dev/console", O_RDWR | O_NOCTTY); console >= 0) {
    for (int fd = 0; fd < 3; ++fd) {
      ::dup2(console, fd);
    }
    if (console > 2) {
      ::close(console);
    }
  }
  DS_CHECK(mount_one({"proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr}));
  return mount_one({"sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr});
}

Result<> insert_modules(const std::string& list, bool all_needed) {
  DS_TRY(const auto text, base::read_file(list));
  const auto directory = list.substr(0, list.rfind('/') + 1);
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto end = std::min(rest.find('\n'), rest.size());
    const auto line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.empty()) {
      continue;
    }
    if (auto done = insert_module(directory + std::string(line)); !done && all_needed) {
      return done;
    }
  }
  return {};
}

Result<> mount_root(const std::string& cmdline) {
  const auto hash = base::cmdline_value(cmdline, "dstack.rootfs_hash");
  const auto size_text = base::cmdline_value(cmdline, "dstack.rootfs_size");
  if (!hash || !size_text) {
    return fail(Code::invalid_argument,
                "the kernel command line lacks dstack.rootfs_hash or dstack.rootfs_size",
                "use the command line in the image's metadata.json");
  }
  std::uint64_t size = 0;
  const auto [end, error] = std::from_chars(size_text->data(), size_text->data() + size_text->size(), size);
  if (error != std::errc() || end != size_text->data() + size_text->size() || size == 0 || size % 4096 != 0 ||
      size > (std::uint64_t{1} << 44)) {
    return fail(Code::invalid_argument, format("dstack.rootfs_size={} is not a size in bytes", *size_text));
  }
  DS_TRY(const auto disk, find_root_disk(cmdline, size));
  DS_TRY(const auto device, base::open_verity({"rootfs", disk, disk, size, *hash}));
  return mount_file_system(device.string());
}

Result<> switch_root() {
  for (const char* directory : {"/proc", "/sys", "/dev"}) {
    const auto target = k_new_root + std::string(directory);
    if (::mount(directory, target.c_str(), nullptr, MS_MOVE, nullptr) != 0) {
      return fail_errno(Code::io, format("cannot move {} into the new root", directory), errno);
    }
  }
  struct stat info{};
  if (::stat("/", &info) == 0) {
    free_directory(AT_FDCWD, "/", info.st_dev);
  }
  if (::chdir(k_new_root) != 0 || ::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || ::chroot(".") != 0 ||
      ::chdir("/") != 0) {
    return fail_errno(Code::io, "cannot switch to the new root", errno);
  }
  return {};
}

Result<> mount_runtime() {
  static constexpr unsigned long k_plain = MS_NOSUID | MS_NODEV;
  ::mkdir("/dev/pts", 0755);
  ::mkdir("/dev/shm", 01777);
  static constexpr std::array<Mount, 8> k_mounts{{
      {"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
      {"tmpfs", "/dev/shm", "tmpfs", k_plain, "mode=1777"},
      {"tmpfs", "/run", "tmpfs", k_plain, "mode=0755"},
      {"tmpfs", "/tmp", "tmpfs", k_plain, "mode=1777"},
      {"tmpfs", "/var", "tmpfs", MS_NOSUID, "mode=0755"},
      {"tmpfs", "/root", "tmpfs", k_plain, "mode=0700"},
      {"cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr},
      {"bpf", "/sys/fs/bpf", "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"},
  }};
  for (const auto& m : k_mounts) {
    DS_CHECK(mount_one(m));
  }
  for (const char* directory : {"/var/lib", "/var/cache", "/var/log", "/var/volatile", "/var/lib/containers",
                                "/run/lock", "/run/overlay", "/run/overlay/etc", "/run/overlay/etc-work"}) {
    if (::mkdir(directory, 0755) != 0) {
      return fail_errno(Code::io, format("cannot make {}", directory), errno);
    }
  }
  ::mkdir("/var/tmp", 01777);
  ::chmod("/var/tmp", 01777);
  if (::symlink("/run", "/var/run") != 0 || ::symlink("/run/lock", "/var/lock") != 0) {
    return fail_errno(Code::io, "cannot make /var/run", errno);
  }
  DS_CHECK(mount_one({"overlay", "/etc", "overlay", MS_NOSUID | MS_NODEV,
                      "lowerdir=/etc,upperdir=/run/overlay/etc,workdir=/run/overlay/etc-work"}));
  // Each controller by itself, so that one that is missing does not cost the others.
  for (const char* controller : {"+cpu", "+memory", "+pids", "+io", "+cpuset"}) {
    Fd fd(::open("/sys/fs/cgroup/cgroup.subtree_control", O_WRONLY | O_CLOEXEC));
    if (fd) {
      [[maybe_unused]] const auto written = ::write(fd.get(), controller, std::strlen(controller));
    }
  }
  return {};
}

}  // namespace dstack::init
