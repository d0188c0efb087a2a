#include "host/volume.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "host/file_digest.h"
#include "host/work_directory.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::fail_errno;
using base::Fd;
using base::format;

namespace {

constexpr std::uint64_t k_block = 4096;
constexpr std::uint64_t k_sector = 512;
constexpr auto k_tool_time = std::chrono::minutes(30);

std::vector<std::string> compression_arguments(VolumeCompression compression) {
  switch (compression) {
    case VolumeCompression::none:
      return {"-noI", "-noD", "-noF", "-noX", "-noId"};
    case VolumeCompression::lz4:
      return {"-comp", "lz4"};
    case VolumeCompression::zstd:
      return {"-comp", "zstd"};
    case VolumeCompression::gzip:
      break;
  }
  return {};
}

Result<base::Bytes> read_head(const fs::path& file, std::uint64_t offset, std::size_t size) {
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return fail_errno(errno == ENOENT ? Code::not_found : Code::io, format("cannot open {}", file.string()),
                      errno);
  }
  base::Bytes out(size);
  const auto n = ::pread(fd.get(), out.data(), size, static_cast<off_t>(offset));
  if (n < 0) {
    return fail_errno(Code::io, format("cannot read {}", file.string()), errno);
  }
  out.resize(static_cast<std::size_t>(n));
  return out;
}

// What of the file is data: squashfs says it itself, anything else counts whole.
Result<std::uint64_t> data_length(const fs::path& file) {
  std::error_code error;
  const std::uint64_t size = fs::file_size(file, error);
  if (error) {
    return fail(Code::not_found, format("cannot read {}: {}", file.string(), error.message()));
  }
  DS_TRY(const auto head, read_head(file, 0, 48));
  std::uint64_t length = size;
  if (head.size() == 48 && base::as_text(base::ByteView(head).first(4)) == "hsqs") {
    length = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      length |= static_cast<std::uint64_t>(head[40 + i]) << (8 * i);
    }
  }
  if (length == 0 || length > size) {
    return fail(Code::invalid_argument, format("{} is not a usable file system image", file.string()));
  }
  return (length + k_block - 1) / k_block * k_block;
}

// The first 16 bytes of the hash of the data, shaped as a version 4 UUID.
std::string uuid_of(const std::string& sha256_hex) {
  auto bytes = base::from_hex(sha256_hex).value_or(base::Bytes(32));
  bytes.resize(16);
  bytes[6] = static_cast<std::uint8_t>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<std::uint8_t>((bytes[8] & 0x3f) | 0x80);
  const auto hex = base::to_hex(bytes);
  return format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4),
                hex.substr(20));
}

Result<> write_all(int fd, base::ByteView data, std::uint64_t offset, const fs::path& path) {
  while (!data.empty()) {
    const auto n = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return fail_errno(errno == ENOSPC ? Code::no_space : Code::io, format("cannot write {}", path.string()),
                        errno, errno == ENOSPC ? "free some disk space" : "");
    }
    data = data.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<> copy_into(const fs::path& from, int to, std::uint64_t offset, std::uint64_t size,
                   const fs::path& target) {
  const Fd in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in) {
    return fail_errno(Code::io, format("cannot open {}", from.string()), errno);
  }
  base::Bytes buffer(1 << 20);
  std::uint64_t done = 0;
  while (done < size) {
    const auto n = ::pread(in.get(), buffer.data(), std::min<std::uint64_t>(buffer.size(), size - done),
                           static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return fail_errno(Code::io, format("cannot read {}", from.string()), errno);
    }
    if (n == 0) {
      break;
    }
    DS_CHECK(write_all(to, base::ByteView(buffer).first(static_cast<std::size_t>(n)), offset + done, target));
    done += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<std::string> format_verity(const fs::path& data, std::uint64_t size, const fs::path& hash) {
  DS_TRY(const auto digest, sha256_file(data, size));
  DS_TRY(const auto output,
         base::run_checked(
             {.argv = {"veritysetup", "format", "--salt", std::string(64, '0'), "--uuid", uuid_of(digest),
                       "--hash", "sha256", "--format", "1", "--data-block-size", "4096", "--hash-block-size",
                       "4096", "--data-blocks", std::to_string(size / k_block), data.string(), hash.string()},
              .timeout = k_tool_time}));
  return root_hash_in(output.out);
}

Result<> write_disk(const std::string& root, const fs::path& data, std::uint64_t data_size,
                    const fs::path& hash, const fs::path& output, std::uint64_t& disk_size) {
  std::error_code error;
  const std::uint64_t hash_size = fs::file_size(hash, error);
  if (error) {
    return fail(Code::io, format("veritysetup made no hash tree: {}", error.message()));
  }
  const auto layout = lay_out_volume(root, data_size, hash_size);
  disk_size = layout.total_sectors * k_sector;
  const Fd out(::open(output.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!out) {
    return fail_errno(Code::io, format("cannot write {}", output.string()), errno);
  }
  if (::fchmod(out.get(), 0644) != 0 || ::ftruncate(out.get(), static_cast<off_t>(disk_size)) != 0) {
    return fail_errno(Code::io, format("cannot write {}", output.string()), errno);
  }
  DS_CHECK(write_all(out.get(), layout.head, 0, output));
  DS_CHECK(copy_into(data, out.get(), layout.data_lba * k_sector, data_size, output));
  DS_CHECK(copy_into(hash, out.get(), layout.hash_lba * k_sector, hash_size, output));
  DS_CHECK(write_all(out.get(), layout.tail, disk_size - layout.tail.size(), output));
  if (::fsync(out.get()) != 0) {
    return fail_errno(Code::io, format("cannot write {}", output.string()), errno);
  }
  return {};
}

Result<VolumeBuild> build_in(const fs::path& work, const fs::path& data, const fs::path& output) {
  VolumeBuild built;
  built.output = output;
  DS_TRY(built.data_size, data_length(data));
  const auto hash = work / "hash.img";
  const auto disk = work / "disk.img";
  DS_TRY(built.verity_root, format_verity(data, built.data_size, hash));
  DS_CHECK(write_disk(built.verity_root, data, built.data_size, hash, disk, built.volume_size));
  std::error_code error;
  fs::rename(disk, output, error);
  if (error) {
    return fail(Code::io, format("cannot write {}: {}", output.string(), error.message()));
  }
  return built;
}

fs::path directory_of(const fs::path& output) {
  return output.has_parent_path() ? output.parent_path() : fs::path(".");
}

}  // namespace

Result<std::string> root_hash_in(std::string_view veritysetup_output) {
  static constexpr std::string_view k_label = "Root hash:";
  const auto at = veritysetup_output.find(k_label);
  if (at != std::string_view::npos) {
    auto rest = veritysetup_output.substr(at + k_label.size());
    const auto text = base::normalize_hex(rest.substr(0, rest.find('\n')));
    if (const auto bytes = base::from_hex(text); bytes && (bytes->size() == 32 || bytes->size() == 64)) {
      return text;
    }
  }
  return fail(Code::process_failed, "veritysetup printed no root hash");
}

std::optional<VolumeCompression> parse_volume_compression(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, VolumeCompression>, 4> k_names{
      {{"none", VolumeCompression::none},
       {"lz4", VolumeCompression::lz4},
       {"gzip", VolumeCompression::gzip},
       {"zstd", VolumeCompression::zstd}}};
  const auto it = std::ranges::find(k_names, text, [](const auto& entry) { return entry.first; });
  return it == k_names.end() ? std::nullopt : std::optional(it->second);
}

Result<VolumeBuild> build_volume(const fs::path& directory, const fs::path& output,
                                 VolumeCompression compression) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return fail(Code::not_found, format("{} is not a directory", directory.string()));
  }
  DS_TRY(const auto work, WorkDirectory::make(directory_of(output), "volume"));
  const auto data = work.path() / "data.fs";
  base::Command command{.argv = {"mksquashfs", directory.string(), data.string()}, .timeout = k_tool_time};
  const auto extra = compression_arguments(compression);
  command.argv.insert(command.argv.end(), extra.begin(), extra.end());
  for (const char* argument :
       {"-all-time", "1704067200", "-mkfs-time", "1704067200", "-noappend", "-no-progress", "-xattrs"}) {
    command.argv.emplace_back(argument);
  }
  DS_CHECK(base::run_checked(command));
  return build_in(work.path(), data, output);
}

Result<VolumeBuild> build_volume_from_image(const fs::path& file_system, const fs::path& output) {
  DS_TRY(const auto work, WorkDirectory::make(directory_of(output), "volume"));
  // A copy, because veritysetup reads whole blocks and the last one may have to be filled up.
  const auto data = work.path() / "data.fs";
  DS_TRY(const auto size, data_length(file_system));
  std::error_code error;
  fs::copy_file(file_system, data, error);
  if (!error && fs::file_size(data, error) < size) {
    fs::resize_file(data, size, error);
  }
  if (error) {
    return fail(Code::io, format("cannot copy {}: {}", file_system.string(), error.message()));
  }
  return build_in(work.path(), data, output);
}

Result<std::string> read_volume_root(const fs::path& file) {
  DS_TRY(const auto block, read_head(file, 2048 * k_sector, 52));
  static constexpr std::string_view k_magic{"DSTACK_VOLUME\0\0\0\x01\0\0\0", 20};
  if (block.size() != 52 || base::as_text(base::ByteView(block).first(20)) != k_magic) {
    return fail(Code::volume_corrupt, format("{} is not a dstack volume", file.string()),
                "make it again with dstackup volume add");
  }
  return base::to_hex(base::ByteView(block).subspan(20, 32));
}

}  // namespace dstack::host
