#include <algorithm>
#include <array>
#include <cstring>

#include "base/bytes.h"
#include "crypto/hash.h"
#include "host/volume.h"

namespace dstack::host {

using base::Bytes;
using base::ByteView;

namespace {

constexpr std::uint64_t k_sector = 512;
constexpr std::uint64_t k_alignment = 2048;
constexpr std::uint64_t k_metadata_lba = 2048;
constexpr std::uint64_t k_metadata_sectors = 8;
constexpr std::size_t k_entry_size = 128;
constexpr std::size_t k_entry_count = 128;
constexpr std::uint64_t k_table_sectors = k_entry_size * k_entry_count / k_sector;

// "Linux filesystem", 0FC63DAF-8483-4772-8E79-3D69D8477DE4, in the byte order of its text.
constexpr std::array<std::uint8_t, 16> k_linux_type{0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72,
                                                    0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4};

using Guid = std::array<std::uint8_t, 16>;

std::uint64_t align_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

template <class T>
void put(Bytes& out, std::size_t offset, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    out[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
}

// On disk the first three fields of a GUID are little-endian.
void put_guid(Bytes& out, std::size_t offset, Guid guid) {
  std::reverse(guid.begin(), guid.begin() + 4);
  std::reverse(guid.begin() + 4, guid.begin() + 6);
  std::reverse(guid.begin() + 6, guid.begin() + 8);
  std::ranges::copy(guid, out.begin() + static_cast<std::ptrdiff_t>(offset));
}

Guid make_guid(std::string_view label, std::string_view root_hex) {
  Bytes input;
  for (const auto part : {label, root_hex}) {
    Bytes length(8);
    put<std::uint64_t>(length, 0, part.size());
    base::append(input, length);
    base::append(input, part);
  }
  const auto hash = crypto::sha256(input);
  Guid guid;
  std::copy_n(hash.begin(), guid.size(), guid.begin());
  guid[6] = static_cast<std::uint8_t>((guid[6] & 0x0f) | 0x40);
  guid[8] = static_cast<std::uint8_t>((guid[8] & 0x3f) | 0x80);
  return guid;
}

std::uint32_t crc32(ByteView bytes) {
  std::uint32_t crc = 0xffffffff;
  for (const auto byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ (0xedb88320U & (0U - (crc & 1U)));
    }
  }
  return ~crc;
}

struct Partition {
  std::string_view name;
  std::string_view guid_label;
  std::uint64_t first = 0;
  std::uint64_t sectors = 0;
};

Bytes make_entries(const std::array<Partition, 3>& partitions, const std::string& root) {
  Bytes entries(k_entry_size * k_entry_count);
  std::size_t offset = 0;
  for (const auto& partition : partitions) {
    put_guid(entries, offset, k_linux_type);
    put_guid(entries, offset + 16, make_guid(partition.guid_label, root));
    put<std::uint64_t>(entries, offset + 32, partition.first);
    put<std::uint64_t>(entries, offset + 40, partition.first + partition.sectors - 1);
    for (std::size_t i = 0; i < partition.name.size(); ++i) {
      entries[offset + 56 + 2 * i] = static_cast<std::uint8_t>(partition.name[i]);
    }
    offset += k_entry_size;
  }
  return entries;
}

Bytes make_header(std::uint64_t own, std::uint64_t other, std::uint64_t table, std::uint64_t total,
                  const Guid& disk, const Bytes& entries) {
  Bytes header(k_sector);
  std::memcpy(header.data(), "EFI PART", 8);
  put<std::uint32_t>(header, 8, 0x00010000);
  put<std::uint32_t>(header, 12, 92);
  put<std::uint64_t>(header, 24, own);
  put<std::uint64_t>(header, 32, other);
  put<std::uint64_t>(header, 40, 2 + k_table_sectors);
  put<std::uint64_t>(header, 48, total - k_table_sectors - 2);
  put_guid(header, 56, disk);
  put<std::uint64_t>(header, 72, table);
  put<std::uint32_t>(header, 80, k_entry_count);
  put<std::uint32_t>(header, 84, k_entry_size);
  put<std::uint32_t>(header, 88, crc32(entries));
  put<std::uint32_t>(header, 16, crc32(ByteView(header).first(92)));
  return header;
}

Bytes make_protective_mbr(std::uint64_t total) {
  Bytes mbr(k_sector);
  mbr[446 + 2] = 2;
  mbr[446 + 4] = 0xee;
  std::fill_n(mbr.begin() + 446 + 5, 3, std::uint8_t{0xff});
  put<std::uint32_t>(mbr, 446 + 8, 1);
  put<std::uint32_t>(mbr, 446 + 12,
                     static_cast<std::uint32_t>(std::min<std::uint64_t>(total - 1, 0xffffffff)));
  mbr[510] = 0x55;
  mbr[511] = 0xaa;
  return mbr;
}

}  // namespace

VolumeLayout lay_out_volume(const std::string& verity_root, std::uint64_t data_bytes,
                            std::uint64_t hash_bytes) {
  VolumeLayout out;
  out.data_lba = align_up(k_metadata_lba + k_metadata_sectors, k_alignment);
  out.data_sectors = align_up(data_bytes, k_sector) / k_sector;
  out.hash_lba = align_up(out.data_lba + out.data_sectors, k_alignment);
  out.hash_sectors = align_up(hash_bytes, k_sector) / k_sector;
  const auto last = out.hash_lba + out.hash_sectors - 1;
  out.total_sectors = align_up(last + 1 + 33, k_alignment);

  const auto disk = make_guid("dstack-verity-disk", verity_root);
  const auto entries =
      make_entries({{{"dstack-volume", "dstack-volume-metadata", k_metadata_lba, k_metadata_sectors},
                     {"dstack-data", "dstack-verity-data", out.data_lba, out.data_sectors},
                     {"dstack-verity", "dstack-verity-hash", out.hash_lba, out.hash_sectors}}},
                   verity_root);
  const auto secondary = out.total_sectors - 1;

  out.head = make_protective_mbr(out.total_sectors);
  base::append(out.head, make_header(1, secondary, 2, out.total_sectors, disk, entries));
  base::append(out.head, entries);
  out.head.resize((k_metadata_lba + k_metadata_sectors) * k_sector);
  auto* const block = out.head.data() + k_metadata_lba * k_sector;
  std::memcpy(block, "DSTACK_VOLUME\0\0\0", 16);
  put<std::uint32_t>(out.head, k_metadata_lba * k_sector + 16, 1);
  if (const auto root = base::from_hex(verity_root); root && root->size() == 32) {
    std::ranges::copy(*root, block + 20);
  }

  out.tail = entries;
  base::append(out.tail,
               make_header(secondary, 1, secondary - k_table_sectors, out.total_sectors, disk, entries));
  return out;
}

}  // namespace dstack::host
