// dm-verity by ioctl: opens a read-only device whose every block is checked against a root hash. No
// libcryptsetup.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::base {

inline constexpr std::size_t k_verity_superblock_size = 512;

// What `veritysetup format` writes in front of the hash tree. Only sha256 and blake2b-512 with 4096-byte
// blocks are accepted.
struct VeritySuperblock {
  std::string hash;               // "sha256" or "blake2b-512"
  std::uint64_t data_blocks = 0;  // of 4096 bytes
  Bytes salt;                     // up to 256 bytes
};
// `bytes` holds at least k_verity_superblock_size. Code::parse for anything that is not accepted.
Result<VeritySuperblock> parse_verity_superblock(ByteView bytes);

struct VerityOpen {
  std::string name;               // device-mapper name, unique
  std::string data_device;        // "/dev/vda"
  std::string hash_device;        // may be the data device
  std::uint64_t hash_offset = 0;  // of the superblock in hash_device, a multiple of 4096
  std::string root_hash;          // hex, 64 digits of sha256 or 128 of blake2b-512
};
// "1 /dev/vda /dev/vda 4096 4096 <blocks> <start> sha256 <root> <salt>": the table line for the kernel. The
// root hash alone says which hash it is; a superblock that names the other one is refused.
Result<std::string> verity_table(const VerityOpen& what, const VeritySuperblock& superblock);
// Reads the superblock, makes the device and returns its node, "/dev/dm-0". The root hash is trusted, the
// devices' contents are not. Needs devtmpfs and the dm-verity module.
Result<std::filesystem::path> open_verity(const VerityOpen& what);

}  // namespace dstack::base
