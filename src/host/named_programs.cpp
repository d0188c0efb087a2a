#include "host/named_programs.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/format.h"
#include "base/process.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::string_view k_managed = "managed";

// A path, or a name that is looked up where tools are.
Result<std::string> find_program(const char* flag, const std::string& named) {
  std::error_code error;
  const bool path = named.find('/') != std::string::npos;
  const auto found =
      base::find_tool(path ? fs::absolute(named, error).lexically_normal().string() : named).value_or("");
  if (found.empty() || !fs::is_regular_file(found, error)) {
    return base::fail(Code::programs,
                      path ? base::format("{} {} is not a program", flag, named)
                           : base::format("there is no program {} in {}", named, base::k_tool_path),
                      base::format("install it, or name it with {} PATH", flag));
  }
  return found;
}

Result<> choose(const char* flag, const std::optional<std::string>& given, const char* otherwise, bool all,
                std::string& out) {
  if (given == k_managed) {
    out.clear();
  }
  if (given == k_managed && all) {
    return base::fail(Code::invalid_argument,
                      base::format("{} managed: this installation has no programs of its own", flag),
                      "name a directory with programs that it is to copy, with --programs-from");
  }
  if (given && given != k_managed) {
    DS_TRY(out, find_program(flag, *given));
  } else if (all && out.empty()) {
    DS_TRY(out, find_program(flag, otherwise));
  }
  return {};
}

}  // namespace

Result<NamedPrograms> choose_named_programs(const ProgramFlags& flags,
                                            const std::optional<InstallState>& known) {
  NamedPrograms out;
  // Programs to be copied take all that was named before back, unless it was a single one.
  const bool were_all = known && known->skip_managed_binaries;
  out.all = flags.skip_managed || (were_all && !flags.from);
  if (known && (out.all || !were_all)) {
    out.vmm = known->vmm_bin;
    out.auth = known->auth_bin;
  }
  out.supervisor = known ? known->supervisor_bin : "";
  DS_CHECK(choose("--vmm-bin", flags.vmm, "dstack-vmm", out.all, out.vmm));
  DS_CHECK(choose("--auth-bin", flags.auth, "dstack-auth", out.all, out.auth));
  DS_CHECK(choose("--supervisor-bin", flags.supervisor, "", false, out.supervisor));
  return out;
}

std::string program_mark(const fs::path& program) {
  struct stat info = {};
  if (::stat(program.c_str(), &info) != 0) {
    return {};
  }
  return base::format("{}-{}.{:09}", info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

Result<> require_managed_programs(const InstallState& state, std::string_view verb) {
  if (!state.skip_managed_binaries) {
    return {};
  }
  return base::fail(
      Code::programs,
      base::format("nothing to {}: this installation runs {} and {} as they are (--skip-managed-binaries)",
                   verb, state.vmm_bin, state.auth_bin),
      "change them where they come from and run 'dstackup install', which restarts what changed; or let it "
      "keep copies again with 'dstackup install --programs-from DIR'");
}

}  // namespace dstack::host
