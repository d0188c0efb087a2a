#include "vmm/fat_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"

namespace dstack::vmm {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::fail_errno;
using base::Fd;
using base::Result;

namespace {

// Geometry: one sector per cluster gives enough clusters for the volume to be FAT32 (at least 65,525).
constexpr std::uint32_t k_sector = 512;
constexpr std::uint32_t k_sectors = k_fat_image_size / k_sector;
constexpr std::uint32_t k_reserved = 32;
constexpr std::uint32_t k_fat_sectors = 2033;
constexpr std::uint32_t k_data_start = k_reserved + 2 * k_fat_sectors;
constexpr std::uint32_t k_clusters = k_sectors - k_data_start;
static_assert(k_clusters >= 65525 && (k_clusters + 2) * 4ULL <= k_fat_sectors * std::uint64_t{k_sector});
constexpr std::uint32_t k_end_of_chain = 0x0fffffff;
constexpr std::uint16_t k_date = (45 << 9) | (1 << 5) | 1;  // 2025-01-01: equal inputs give equal bytes
constexpr std::size_t k_max_files = 64;

void put16(std::uint8_t* at, std::uint32_t value) {
  at[0] = static_cast<std::uint8_t>(value);
  at[1] = static_cast<std::uint8_t>(value >> 8U);
}
void put32(std::uint8_t* at, std::uint32_t value) {
  put16(at, value & 0xffffU);
  put16(at + 2, value >> 16U);
}

Result<> write_at(const Fd& fd, ByteView data, std::uint64_t offset) {
  while (!data.empty()) {
    const auto n = ::pwrite(fd.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return fail_errno(errno == ENOSPC ? Code::no_space : Code::io, "cannot write the host-share disk",
                        errno);
    }
    data = data.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Bytes boot_sector(std::string_view label) {
  Bytes out(k_sector);
  auto* p = out.data();
  const std::uint8_t jump[] = {0xeb, 0x58, 0x90};
  std::copy(std::begin(jump), std::end(jump), p);
  std::memcpy(p + 3, "MSWIN4.1", 8);
  put16(p + 11, k_sector);
  p[13] = 1;  // sectors per cluster
  put16(p + 14, k_reserved);
  p[16] = 2;  // FATs
  p[21] = 0xf8;
  put16(p + 24, 32);
  put16(p + 26, 64);
  put32(p + 32, k_sectors);
  put32(p + 36, k_fat_sectors);
  put32(p + 44, 2);  // root directory's first cluster
  put16(p + 48, 1);  // FSInfo
  put16(p + 50, 6);  // backup boot sector
  p[64] = 0x80;
  p[66] = 0x29;
  put32(p + 67, 0xd57ac4e0);
  std::memcpy(p + 71, label.data(), 11);
  std::memcpy(p + 82, "FAT32   ", 8);
  p[510] = 0x55;
  p[511] = 0xaa;
  return out;
}

Bytes fs_info(std::uint32_t free_clusters, std::uint32_t next_free) {
  Bytes out(k_sector);
  auto* p = out.data();
  put32(p, 0x41615252);
  put32(p + 484, 0x61417272);
  put32(p + 488, free_clusters);
  put32(p + 492, next_free);
  put32(p + 508, 0xaa550000);
  return out;
}

using Name11 = std::array<std::uint8_t, 11>;

// Short names are only for readers without long names: F0000001 and so on, unique.
Name11 short_name(std::size_t index) {
  Name11 out;
  const auto text = base::format("F{:07}   ", index);
  std::memcpy(out.data(), text.data(), 11);
  return out;
}

std::uint8_t short_name_checksum(const Name11& name) {
  std::uint8_t sum = 0;
  for (const auto c : name) {
    sum = static_cast<std::uint8_t>(((sum & 1U) << 7U) + (sum >> 1U) + c);
  }
  return sum;
}

void append_entry(Bytes& directory, const Name11& name, std::uint8_t attributes, std::uint32_t cluster,
                  std::uint32_t size) {
  Bytes entry(32);
  std::copy(name.begin(), name.end(), entry.begin());
  entry[11] = attributes;
  put16(&entry[16], k_date);
  put16(&entry[18], k_date);
  put16(&entry[20], cluster >> 16U);
  put16(&entry[24], k_date);
  put16(&entry[26], cluster & 0xffffU);
  put32(&entry[28], size);
  base::append(directory, entry);
}

void append_long_name(Bytes& directory, std::string_view name, std::uint8_t checksum) {
  constexpr std::size_t k_per_entry = 13;
  constexpr std::array<std::size_t, k_per_entry> k_places = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
  const std::size_t count = (name.size() + k_per_entry - 1) / k_per_entry;
  for (std::size_t number = count; number >= 1; --number) {
    Bytes entry(32);
    entry[0] = static_cast<std::uint8_t>(number | (number == count ? 0x40U : 0U));
    entry[11] = 0x0f;
    entry[13] = checksum;
    for (std::size_t i = 0; i < k_per_entry; ++i) {
      const auto at = (number - 1) * k_per_entry + i;
      std::uint32_t unit = 0xffff;
      if (at < name.size()) {
        unit = static_cast<std::uint8_t>(name[at]);
      } else if (at == name.size()) {
        unit = 0;
      }
      put16(&entry[k_places[i]], unit);
    }
    base::append(directory, entry);
  }
}

struct SourceFile {
  std::string name;
  fs::path path;
  Bytes content;
};

Result<std::vector<SourceFile>> read_sources(const fs::path& source) {
  std::vector<SourceFile> files;
  std::error_code error;
  fs::directory_iterator it(source, error);
  if (error) {
    return fail_errno(Code::io, base::format("cannot list {}", source.native()), error.value());
  }
  std::uint64_t total = 0;
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    std::error_code ignored;
    if (!it->is_regular_file(ignored) || it->is_symlink(ignored)) {
      continue;
    }
    SourceFile file{it->path().filename().native(), it->path(), {}};
    const bool plain = std::all_of(file.name.begin(), file.name.end(), [](char c) {
      return c > ' ' && c < 127 && std::strchr("\"*:<>?\\|", c) == nullptr;
    });
    if (!plain || file.name.size() > 255 || files.size() >= k_max_files) {
      return fail(
          Code::invalid_argument,
          base::format("{} cannot be handed to the guest: its name or the number of files", file.name));
    }
    DS_TRY(const auto text, base::read_file(file.path, k_fat_image_size));
    file.content = base::to_bytes(text);
    total += file.content.size();
    if (total > k_fat_image_size - 8ULL * 1024 * 1024) {
      return fail(Code::too_large,
                  base::format("the files for the guest in {} are larger than the 120 MiB that the "
                               "host-share disk holds",
                               source.native()));
    }
    files.push_back(std::move(file));
  }
  if (error) {
    return fail_errno(Code::io, base::format("cannot list {}", source.native()), error.value());
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return files;
}

std::uint64_t cluster_offset(std::uint32_t cluster) {
  return (std::uint64_t{k_data_start} + cluster - 2) * k_sector;
}

std::uint32_t clusters_for(std::size_t bytes) {
  return static_cast<std::uint32_t>((bytes + k_sector - 1) / k_sector);
}

class FatWriter {
 public:
  explicit FatWriter(const Fd& fd) : m_fd(fd), m_fat{0x0ffffff8, k_end_of_chain} {}

  Result<> write(const std::vector<SourceFile>& files, std::string_view label) {
    Name11 padded;
    padded.fill(' ');
    std::copy(label.begin(), label.end(), padded.begin());

    // The root directory comes first, so its size must be known before the files are placed.
    std::size_t entries = 1;
    for (const auto& file : files) {
      entries += 1 + (file.name.size() + 12) / 13;
    }
    allocate(std::max<std::uint32_t>(1, clusters_for(entries * 32)));

    Bytes directory;
    append_entry(directory, padded, 0x08, 0, 0);
    for (std::size_t i = 0; i < files.size(); ++i) {
      const auto& file = files[i];
      const auto first = file.content.empty() ? 0 : allocate(clusters_for(file.content.size()));
      if (first != 0) {
        DS_CHECK(write_at(m_fd, file.content, cluster_offset(first)));
      }
      const auto alias = short_name(i + 1);
      append_long_name(directory, file.name, short_name_checksum(alias));
      append_entry(directory, alias, 0x20, first, static_cast<std::uint32_t>(file.content.size()));
    }
    DS_CHECK(write_at(m_fd, directory, cluster_offset(2)));

    Bytes table(m_fat.size() * 4);
    for (std::size_t i = 0; i < m_fat.size(); ++i) {
      put32(&table[i * 4], m_fat[i]);
    }
    DS_CHECK(write_at(m_fd, table, std::uint64_t{k_reserved} * k_sector));
    DS_CHECK(write_at(m_fd, table, std::uint64_t{k_reserved + k_fat_sectors} * k_sector));

    const auto boot = boot_sector(base::as_text(padded));
    const auto used = static_cast<std::uint32_t>(m_fat.size());
    const auto info = fs_info(k_clusters + 2 - used, used);
    for (const std::uint32_t copy : {0U, 6U}) {
      DS_CHECK(write_at(m_fd, boot, std::uint64_t{copy} * k_sector));
      DS_CHECK(write_at(m_fd, info, (copy + 1ULL) * k_sector));
    }
    return {};
  }

 private:
  // A chain of consecutive clusters; gives its first.
  std::uint32_t allocate(std::uint32_t count) {
    const auto first = static_cast<std::uint32_t>(m_fat.size());
    for (std::uint32_t i = 1; i < count; ++i) {
      m_fat.push_back(first + i);
    }
    m_fat.push_back(k_end_of_chain);
    return first;
  }

  const Fd& m_fd;
  std::vector<std::uint32_t> m_fat;
};

Result<> fill(const Fd& fd, const std::vector<SourceFile>& files, std::string_view label) {
  if (::ftruncate(fd.get(), k_fat_image_size) != 0) {
    return fail_errno(Code::io, "cannot size the host-share disk", errno);
  }
  DS_CHECK(FatWriter(fd).write(files, label));
  if (::fsync(fd.get()) != 0) {
    return fail_errno(errno == ENOSPC ? Code::no_space : Code::io, "cannot write the host-share disk", errno);
  }
  return {};
}

}  // namespace

Result<> write_fat_image(const fs::path& source, const fs::path& target, std::string_view label) {
  if (label.size() > 11) {
    return fail(Code::invalid_argument, "a FAT label has at most 11 characters");
  }
  DS_TRY(const auto files, read_sources(source));
  std::string temporary = target.native() + ".XXXXXX";
  const Fd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) {
    return fail_errno(Code::io, base::format("cannot create {}", target.native()), errno);
  }
  auto result = fill(fd, files, label);
  if (result && ::rename(temporary.c_str(), target.c_str()) != 0) {
    result = fail_errno(Code::io, base::format("cannot create {}", target.native()), errno);
  }
  if (!result) {
    ::unlink(temporary.c_str());
    return result;
  }
  const Fd directory(::open(target.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.get()) != 0) {
    return fail_errno(Code::io, base::format("cannot make {} durable", target.native()), errno);
  }
  return {};
}

}  // namespace dstack::vmm
