#include "host/programs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ranges>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "crypto/hash.h"
#include "host/file_digest.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

struct Program {
  const char* name;
  bool needed;
};
constexpr std::array k_programs = {Program{"dstackup", false}, Program{"dstack", false},
                                   Program{"dstack-auth", true}, Program{"dstack-vmm", true}};
constexpr std::string_view k_unfinished = ".new-";

Result<> sync_path(const fs::path& path) {
  const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) {
    return base::fail_errno(Code::io, "cannot sync " + path.string(), errno);
  }
  return {};
}

Result<> copy_program(const fs::path& from, const fs::path& to) {
  const base::Fd in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  const base::Fd out(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0755));
  bool good = in && out && ::fchmod(out.get(), 0755) == 0;
  std::vector<char> buffer(1 << 20);
  ssize_t got = 1;
  while (good && (got = ::read(in.get(), buffer.data(), buffer.size())) > 0) {
    for (ssize_t at = 0; good && at < got;) {
      const auto n = ::write(out.get(), buffer.data() + at, static_cast<std::size_t>(got - at));
      good = n > 0 || (n < 0 && errno == EINTR);
      at += std::max<ssize_t>(n, 0);
    }
  }
  if (!good || got < 0 || ::fsync(out.get()) != 0) {
    return base::fail_errno(errno == ENOSPC ? Code::no_space : Code::io,
                            base::format("cannot copy {} to {}", from.string(), to.string()), errno,
                            "check the free space, and run it again");
  }
  return {};
}

}  // namespace

bool is_program_set_id(const std::string& text) {
  return text.size() == 16 && base::from_hex(text).has_value();
}

std::string set_of_process(const ProgramStore& store, pid_t pid) {
  const auto command = pid > 0 ? base::read_file(base::format("/proc/{}/cmdline", pid), 64 * 1024)
                               : Result<std::string>(std::string());
  // Not only the first word: an interpreter comes before the script that it runs.
  for (const auto part : std::views::split(command.value_or(""), '\0')) {
    const fs::path path(std::string_view(part.begin(), part.end()));
    const auto id = path.parent_path().filename().string();
    if (is_program_set_id(id) && path.parent_path() == store.directory(id)) {
      return id;
    }
  }
  return {};
}

Result<ProgramSet> inspect_programs(const fs::path& directory) {
  ProgramSet out;
  out.directory = directory;
  std::string what;
  for (const auto& [name, needed] : k_programs) {
    const auto path = directory / name;
    struct stat info = {};
    if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || ::access(path.c_str(), X_OK) != 0) {
      if (needed) {
        return base::fail(Code::programs, base::format("{} has no program {}", directory.string(), name),
                          "name a directory or an archive with dstack-vmm and dstack-auth");
      }
      continue;
    }
    DS_TRY(const auto sum, sha256_file(path));
    what += base::format("{}  {}\n", sum, name);
    out.names.emplace_back(name);
  }
  out.id = crypto::sha256_hex(what).substr(0, 16);
  return out;
}

Result<std::string> program_version(const fs::path& program) {
  auto output = base::run_checked(
      {.argv = {program.string(), "--version"}, .timeout = std::chrono::seconds(20), .output_limit = 4096});
  if (!output) {
    auto error = std::move(output).error();
    error.code = Code::programs;
    error.fix = "take programs that were built for this system";
    return base::fail(std::move(error), base::format("{} does not run here", program.string()));
  }
  auto said = std::string(base::trim(output->out));
  const bool printable = std::ranges::all_of(said, [](char c) { return c >= ' ' && c <= '~'; });
  if (said.empty() || said.size() > 64 || !printable) {
    return base::fail(Code::programs,
                      base::format("{} says that it is version '{}'", program.string(),
                                   base::escape_control(said.substr(0, 64))),
                      "take programs of dstack");
  }
  return said;
}

Result<std::string> check_programs_run(const ProgramSet& programs) {
  std::string version;
  for (const auto& name : programs.names) {
    const auto path = programs.directory / name;
    DS_TRY(const auto said, program_version(path));
    if (!version.empty() && said != version) {
      return base::fail(
          Code::programs,
          base::format("{} says that it is version '{}', the others '{}'", path.string(), said, version),
          "take programs of one build");
    }
    version = said;
  }
  return version;
}

std::optional<std::string> ProgramStore::target(const char* link) const {
  std::error_code error;
  const auto to = fs::read_symlink(m_root / link, error);
  auto id = to.filename().string();
  if (error || to.parent_path() != "versions" || !is_program_set_id(id) ||
      !fs::is_directory(directory(id), error)) {
    return std::nullopt;
  }
  return id;
}

Result<> ProgramStore::point(const char* link, const std::string& id) const {
  std::error_code error;
  if (!is_program_set_id(id) || !fs::is_directory(directory(id), error)) {
    return base::fail(Code::programs, base::format("there are no programs {} in {}", id, m_root.string()));
  }
  if (target(link) == id) {
    return {};
  }
  const auto temporary = versions() / base::format("{}{}", k_unfinished, link);
  DS_CHECK(base::remove_file(temporary));
  const auto to = fs::path("versions") / id;
  if (::symlink(to.c_str(), temporary.c_str()) != 0 ||
      ::rename(temporary.c_str(), (m_root / link).c_str()) != 0) {
    return base::fail_errno(Code::io, base::format("cannot make {} name {}", (m_root / link).string(), id),
                            errno);
  }
  return sync_path(m_root);
}

Result<bool> ProgramStore::claim(const fs::path& state) const {
  const auto other = owner();
  if (other == state) {
    return false;
  }
  if (other) {
    return base::fail(Code::layout,
                      base::format("{} has the programs of another installation, that of {}", m_root.string(),
                                   base::escape_control(other->string())),
                      "name another directory with --libexec-dir");
  }
  DS_CHECK(base::make_dirs(versions()));
  if (::symlink(state.c_str(), owner_link().c_str()) != 0) {
    return base::fail_errno(Code::io, base::format("cannot create {}", owner_link().string()), errno);
  }
  DS_CHECK(sync_path(versions()));
  return true;
}

std::optional<fs::path> ProgramStore::owner() const {
  std::error_code error;
  auto out = fs::read_symlink(owner_link(), error);
  return error ? std::nullopt : std::optional(std::move(out));
}

bool ProgramStore::is_part(const std::string& name) {
  return is_program_set_id(name) || name.starts_with(k_unfinished);
}

Result<bool> ProgramStore::add(const ProgramSet& programs) const {
  const auto place = directory(programs.id);
  std::error_code error;
  if (fs::exists(place, error)) {
    const auto there = inspect_programs(place);
    if (there && there->id == programs.id) {
      return false;
    }
    // Something changed them in their place. Whoever runs them keeps the old files open.
    DS_CHECK(base::remove_tree(place));
  }
  DS_CHECK(base::make_dirs(versions()));
  const auto staging = versions() / base::format("{}{}", k_unfinished, programs.id);
  DS_CHECK(base::remove_tree(staging));
  DS_CHECK(base::make_dirs(staging));
  for (const auto& name : programs.names) {
    DS_CHECK(copy_program(programs.directory / name, staging / name));
  }
  // The source may be a checkout that is being built.
  DS_TRY(const auto copied, inspect_programs(staging));
  if (copied.id != programs.id) {
    DS_CHECK(base::remove_tree(staging));
    return base::fail(
        Code::programs,
        base::format("the programs in {} changed while they were copied", programs.directory.string()),
        "wait until the build has finished, and try again");
  }
  DS_CHECK(sync_path(staging));
  if (::rename(staging.c_str(), place.c_str()) != 0) {
    return base::fail_errno(Code::io, "cannot put the programs at " + place.string(), errno);
  }
  DS_CHECK(sync_path(versions()));
  return true;
}

Result<> ProgramStore::prune(bool old_sets) const {
  const auto now = current();
  const auto before = previous();
  std::error_code error;
  std::vector<fs::path> unneeded;
  for (fs::directory_iterator it(versions(), error), end; !error && it != end; it.increment(error)) {
    const auto name = it->path().filename().string();
    const bool old = old_sets && is_program_set_id(name) && name != now && name != before;
    if (name.starts_with(k_unfinished) || old) {
      unneeded.push_back(it->path());
    }
  }
  for (const auto& path : unneeded) {
    DS_CHECK(base::remove_tree(path));
  }
  return {};
}

}  // namespace dstack::host
