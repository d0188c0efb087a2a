#include "guest/block.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"

namespace dstack::guest {

namespace {

using base::ByteView;
using base::Code;
using base::Result;
namespace fs = std::filesystem;

std::uint64_t read_number(const fs::path& path) {
  const auto text = base::read_file(path, 64);
  if (!text) {
    return 0;
  }
  const auto digits = base::trim(*text);
  std::uint64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = fs::directory_iterator(directory, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace

std::optional<std::string> fat_label(ByteView sector) {
  if (sector.size() < 512 || sector[510] != 0x55 || sector[511] != 0xaa) {
    return std::nullopt;
  }
  std::size_t at = 0;
  if (base::as_text(sector.subspan(82, 5)) == "FAT32") {
    at = 71;
  } else if (base::as_text(sector.subspan(54, 3)) == "FAT") {
    at = 43;
  } else {
    return std::nullopt;
  }
  return std::string(base::trim(base::as_text(sector.subspan(at, 11))));
}

std::optional<ExtInfo> ext_info(ByteView head) {
  if (head.size() < 2048 || head[1024 + 56] != 0x53 || head[1024 + 57] != 0xef) {
    return std::nullopt;
  }
  const auto label = base::as_text(head.subspan(1024 + 120, 16));
  const unsigned state = head[1024 + 58];
  return ExtInfo{std::string(label.substr(0, label.find('\0'))), (state & 3) == 1};
}

std::optional<std::string> volume_root(ByteView block) {
  static constexpr std::string_view k_magic{"DSTACK_VOLUME\0\0\0", 16};
  static constexpr std::array<std::uint8_t, 4> k_kind{1, 0, 0, 0};
  if (block.size() < 52 || base::as_text(block.first(16)) != k_magic ||
      !std::ranges::equal(block.subspan(16, 4), k_kind)) {
    return std::nullopt;
  }
  return base::to_hex(block.subspan(20, 32));
}

Result<std::vector<BlockDevice>> virtio_disks(const fs::path& root) {
  std::vector<BlockDevice> disks;
  for (const auto& name : names_in(root / "sys/block")) {
    if (!name.starts_with("vd")) {
      continue;
    }
    const auto sys = root / "sys/block" / name;
    BlockDevice disk{
        name, root / "dev" / name, read_number(sys / "ro") != 0, read_number(sys / "size") * 512, {}};
    // By number, not by name: "vda10" follows "vda9".
    for (int number = 1; number <= 128; ++number) {
      const auto part = base::format("{}{}", name, number);
      std::error_code error;
      if (!fs::exists(sys / part, error)) {
        break;
      }
      disk.partitions.push_back(root / "dev" / part);
    }
    disks.push_back(std::move(disk));
  }
  return disks;
}

Result<base::Bytes> read_head(const fs::path& node, std::size_t count) {
  const base::Fd fd(::open(node.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return base::fail_errno(Code::io, base::format("cannot open {}", node.string()), errno);
  }
  base::Bytes out(count);
  std::size_t got = 0;
  while (got < count) {
    const auto n = ::pread(fd.get(), out.data() + got, count - got, static_cast<off_t>(got));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return base::fail_errno(Code::io, base::format("cannot read {}", node.string()), errno);
    }
    if (n == 0) {
      break;
    }
    got += static_cast<std::size_t>(n);
  }
  out.resize(got);
  return out;
}

}  // namespace dstack::guest
