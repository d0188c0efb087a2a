// Programs that an installation runs as they are, instead of copies of its own: --skip-managed-binaries,
// --vmm-bin, --auth-bin and --supervisor-bin (spec/host.md section 1.1).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "host/state.h"

namespace dstack::host {

// The flags as given. "managed" for a program means the installation's own again.
struct ProgramFlags {
  std::optional<std::string> from;  // --programs-from
  bool skip_managed = false;
  std::optional<std::string> vmm, auth, supervisor;
};

struct NamedPrograms {
  bool all = false;                   // nothing is copied, so there is nothing to upgrade
  std::string vmm, auth, supervisor;  // full paths; "" = the installation's own
};

// What the flags say, else what is installed. Where all are named, those that are not are looked up by their
// names. Code::programs when a flag names no program, Code::invalid_argument when flags do not fit together.
base::Result<NamedPrograms> choose_named_programs(const ProgramFlags& flags,
                                                  const std::optional<InstallState>& known);

// Differs when another file is at the path, so that a service that was started from the one of before is
// found: "<size>-<time of change>"; "" when there is none.
std::string program_mark(const std::filesystem::path& program);

// Code::programs with the way out when the installation has no programs of its own that `verb` could switch.
base::Result<> require_managed_programs(const InstallState& state, std::string_view verb);

}  // namespace dstack::host
