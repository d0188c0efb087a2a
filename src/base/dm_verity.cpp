#include "base/dm_verity.h"

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/fd.h"
#include "base/format.h"

namespace dstack::base {

namespace {

constexpr std::uint64_t k_block = 4096;
constexpr std::string_view k_sha256 = "sha256";
constexpr std::string_view k_blake2b = "blake2b-512";

std::uint64_t little_endian(ByteView bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) {
    value = value << 8 | bytes[i];
  }
  return value;
}

struct alignas(8) Control {
  dm_ioctl header;
  std::array<char, 2048> data;
};

Control make_control(const std::string& name) {
  Control control{};
  control.header.version[0] = DM_VERSION_MAJOR;
  control.header.data_size = sizeof(Control);
  control.header.data_start = sizeof(dm_ioctl);
  std::memcpy(control.header.name, name.data(), name.size());
  return control;
}

}  // namespace

Result<VeritySuperblock> parse_verity_superblock(ByteView bytes) {
  if (bytes.size() < k_verity_superblock_size) {
    return fail(Code::parse, "the dm-verity superblock is cut short");
  }
  static constexpr std::string_view k_magic{"verity\0\0", 8};
  if (as_text(bytes.first(8)) != k_magic) {
    return fail(Code::parse, "no dm-verity superblock (wrong magic)");
  }
  auto algorithm = as_text(bytes.subspan(32, 32));
  algorithm = algorithm.substr(0, algorithm.find('\0'));
  if (little_endian(bytes.subspan(8, 4)) != 1 || little_endian(bytes.subspan(12, 4)) != 1 ||
      (algorithm != k_sha256 && algorithm != k_blake2b) || little_endian(bytes.subspan(64, 4)) != k_block ||
      little_endian(bytes.subspan(68, 4)) != k_block) {
    return fail(Code::parse,
                "the dm-verity superblock is not version 1, sha256 or blake2b-512, 4096-byte blocks");
  }
  VeritySuperblock superblock;
  superblock.hash = algorithm;
  superblock.data_blocks = little_endian(bytes.subspan(72, 8));
  const auto salt_size = little_endian(bytes.subspan(80, 2));
  if (salt_size > 256 || superblock.data_blocks == 0 || superblock.data_blocks > (std::uint64_t{1} << 40)) {
    return fail(Code::parse, "the dm-verity superblock has sizes out of range");
  }
  superblock.salt = to_bytes(bytes.subspan(88, salt_size));
  return superblock;
}

Result<std::string> verity_table(const VerityOpen& what, const VeritySuperblock& superblock) {
  const auto root = from_hex(what.root_hash);
  if (!root || (root->size() != 32 && root->size() != 64)) {
    return fail(Code::invalid_argument, "the root hash is not 64 or 128 hex digits");
  }
  if (superblock.hash != (root->size() == 32 ? k_sha256 : k_blake2b)) {
    return fail(Code::invalid_argument,
                format("the hash tree is one of {}, the root hash is not", superblock.hash));
  }
  if (what.hash_offset % k_block != 0) {
    return fail(Code::invalid_argument, "the hash offset is not a multiple of 4096");
  }
  return format("1 {} {} {} {} {} {} {} {} {}", what.data_device, what.hash_device, k_block, k_block,
                superblock.data_blocks, what.hash_offset / k_block + 1, superblock.hash, to_hex(*root),
                superblock.salt.empty() ? "-" : to_hex(superblock.salt));
}

Result<std::filesystem::path> open_verity(const VerityOpen& what) {
  if (what.name.empty() || what.name.size() >= DM_NAME_LEN) {
    return fail(Code::invalid_argument, format("'{}' is no device-mapper name", what.name));
  }
  Fd hash(::open(what.hash_device.c_str(), O_RDONLY | O_CLOEXEC));
  if (!hash) {
    return fail_errno(Code::io, format("cannot open {}", what.hash_device), errno);
  }
  Bytes block(k_verity_superblock_size);
  const auto got = ::pread(hash.get(), block.data(), block.size(), static_cast<off_t>(what.hash_offset));
  if (got != static_cast<ssize_t>(block.size())) {
    return fail(Code::io, format("cannot read the dm-verity superblock of {}", what.hash_device));
  }
  DS_TRY(const auto superblock, parse_verity_superblock(block));
  DS_TRY(const auto table, verity_table(what, superblock));

  Fd control(::open("/dev/mapper/control", O_RDWR | O_CLOEXEC));
  if (!control) {
    return fail_errno(Code::io, "cannot open /dev/mapper/control", errno, "load the dm-verity module");
  }
  auto create = make_control(what.name);
  create.header.flags = DM_READONLY_FLAG;
  if (::ioctl(control.get(), DM_DEV_CREATE, &create) != 0) {
    return fail_errno(Code::io, format("cannot create the device-mapper device {}", what.name), errno);
  }
  const auto undo = [&](int error_number, const char* step) {
    auto remove = make_control(what.name);
    ::ioctl(control.get(), DM_DEV_REMOVE, &remove);
    return fail_errno(Code::io, format("cannot {} of {} ({})", step, what.name, what.data_device),
                      error_number);
  };

  auto load = make_control(what.name);
  load.header.flags = DM_READONLY_FLAG;
  load.header.target_count = 1;
  dm_target_spec spec{};
  spec.length = superblock.data_blocks * (k_block / 512);
  std::memcpy(spec.target_type, "verity", 6);
  if (sizeof(spec) + table.size() + 1 > load.data.size()) {
    return undo(E2BIG, "load the table");
  }
  std::memcpy(load.data.data(), &spec, sizeof(spec));
  std::memcpy(load.data.data() + sizeof(spec), table.c_str(), table.size() + 1);
  if (::ioctl(control.get(), DM_TABLE_LOAD, &load) != 0) {
    return undo(errno, "load the table");
  }
  auto resume = make_control(what.name);
  if (::ioctl(control.get(), DM_DEV_SUSPEND, &resume) != 0) {
    return undo(errno, "activate the table");
  }
  return std::filesystem::path(format("/dev/dm-{}", minor(static_cast<dev_t>(resume.header.dev))));
}

}  // namespace dstack::base
