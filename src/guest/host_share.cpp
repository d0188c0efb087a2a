#include "guest/host_share.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/format.h"

namespace dstack::guest {

namespace {

using base::Code;
using base::fail;
using base::Result;

constexpr std::size_t k_kib = 1024;
constexpr std::size_t k_mib = 1024 * k_kib;
constexpr std::array<ShareFile, 6> k_files{{
    {"app-compose.json", 50 * k_mib, true},
    {".sys-config.json", 32 * k_kib, true},
    {".instance_info", 10 * k_kib, false},
    {".encrypted-env", 256 * k_kib, false},
    {".user-config", 50 * k_mib, false},
    {".tee-simulator.json", 32 * k_kib, false},
}};

Result<> write_all(int fd, const char* data, std::size_t size, const std::filesystem::path& name) {
  while (size > 0) {
    const auto n = ::write(fd, data, size);
    if (n < 0) {
      if (errno == EINTR) {
        continue;
      }
      return base::fail_errno(errno == ENOSPC ? Code::no_space : Code::io,
                              base::format("cannot write the copy {}", name.string()), errno);
    }
    data += n;
    size -= static_cast<std::size_t>(n);
  }
  return {};
}

Result<> copy_one(int directory, const ShareFile& file, const std::filesystem::path& to) {
  const std::string name(file.name);
  // O_NONBLOCK, so that a FIFO or a device cannot stop the boot before its kind is known.
  base::Fd in(::openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!in) {
    const int error = errno;
    if (error == ENOENT && !file.required) {
      return {};
    }
    if (error == ENOENT) {
      return fail(Code::not_found, base::format("the host share has no {}", name));
    }
    if (error == ELOOP) {
      return fail(Code::host_share, base::format("{} in the host share is a symlink", name));
    }
    return base::fail_errno(Code::host_share, base::format("cannot open {} in the host share", name), error);
  }
  struct stat info{};
  if (::fstat(in.get(), &info) != 0) {
    return base::fail_errno(Code::host_share, base::format("cannot examine {} in the host share", name),
                            errno);
  }
  if (!S_ISREG(info.st_mode)) {
    return fail(Code::host_share, base::format("{} in the host share is not a regular file", name));
  }
  const auto too_large = [&] {
    return fail(Code::too_large,
                base::format("{} in the host share is larger than {} bytes", name, file.limit));
  };
  if (static_cast<std::uint64_t>(info.st_size) > file.limit) {
    return too_large();
  }
  const auto target = to / name;
  base::Fd out(::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!out) {
    return base::fail_errno(Code::io, base::format("cannot create the copy {}", target.string()), errno);
  }
  std::vector<char> buffer(256 * k_kib);
  std::size_t total = 0;
  while (true) {
    const auto n = ::read(in.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return base::fail_errno(Code::host_share, base::format("cannot read {} in the host share", name),
                              errno);
    }
    if (n == 0) {
      return {};
    }
    total += static_cast<std::size_t>(n);
    if (total > file.limit) {
      return too_large();
    }
    DS_CHECK(write_all(out.get(), buffer.data(), static_cast<std::size_t>(n), target));
  }
}

}  // namespace

std::span<const ShareFile> share_files() {
  return k_files;
}

Result<> copy_host_share(const std::filesystem::path& from, const std::filesystem::path& to) {
  base::Fd directory(::open(from.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) {
    return base::fail_errno(Code::host_share, "cannot open the host share", errno);
  }
  if (::mkdir(to.c_str(), 0700) != 0) {
    return base::fail_errno(Code::io, base::format("cannot create {}", to.string()), errno);
  }
  for (const auto& file : k_files) {
    DS_CHECK(copy_one(directory.get(), file, to));
  }
  return {};
}

}  // namespace dstack::guest
