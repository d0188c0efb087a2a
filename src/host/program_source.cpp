#include "host/program_source.h"

#include <algorithm>

#include "base/format.h"
#include "base/fs.h"
#include "host/archive.h"
#include "host/file_digest.h"
#include "host/image_sums.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

// Programs with debug information are some hundred MiB.
constexpr ArchiveLimits k_limits{.max_entries = 1000, .max_total = std::uint64_t{4} << 30};

Result<> check_sums(const ProgramSet& programs) {
  const auto text = base::read_file(programs.directory / k_image_sums, 1 << 20);
  if (!text && text.error().code == Code::not_found) {
    return {};
  }
  if (!text) {
    return base::fail(text.error());
  }
  DS_TRY(const auto sums, parse_sums(*text));
  for (const auto& name : programs.names) {
    const auto line = std::ranges::find(sums, name, &FileSum::name);
    DS_TRY(const auto sum, sha256_file(programs.directory / name));
    if (line == sums.end() || line->sha256 != sum) {
      return base::fail(Code::programs,
                        base::format("sha256sum.txt {} {}",
                                     line == sums.end() ? "does not list" : "has another sum for", name),
                        "fetch the archive again");
    }
  }
  return {};
}

fs::path find_programs(const fs::path& top) {
  std::error_code error;
  if (fs::exists(top / "dstack-vmm", error)) {
    return top;
  }
  fs::path found = top;
  for (fs::directory_iterator it(top, error), end; !error && it != end; it.increment(error)) {
    for (const auto& candidate : {it->path(), it->path() / "bin"}) {
      if (fs::exists(candidate / "dstack-vmm", error)) {
        found = candidate;
      }
    }
  }
  return found;
}

}  // namespace

Result<ProgramSource> ProgramSource::open(const fs::path& from, const fs::path& work) {
  std::error_code error;
  if (fs::is_directory(from, error)) {
    DS_TRY(auto programs, inspect_programs(from));
    DS_CHECK(check_sums(programs));
    return ProgramSource(std::nullopt, std::move(programs));
  }
  if (!fs::is_regular_file(from, error)) {
    return base::fail(Code::not_found, base::format("{} is neither a directory nor a file", from.string()),
                      "name a directory or an archive with the programs");
  }
  DS_TRY(auto unpacked, WorkDirectory::make(work, "programs"));
  if (auto entries = unpack_archive(from, unpacked.path(), k_limits, /*keep_executable=*/true); !entries) {
    return base::fail(std::move(entries).error(), base::format("cannot use {}", from.string()));
  }
  DS_TRY(auto programs, inspect_programs(find_programs(unpacked.path())));
  DS_CHECK(check_sums(programs));
  return ProgramSource(std::move(unpacked), std::move(programs));
}

}  // namespace dstack::host
