// Which programs an installation runs, and the step of install that puts them
// in their place.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "host/install_steps.h"
#include "host/layout.h"
#include "host/programs.h"

namespace dstack::host {

struct ProgramChoice {
  std::filesystem::path directory;  // where they are, or should be
  std::optional<ProgramSet> set;    // absent when some are missing there
  std::string note;                 // for people; "" = nothing to say
};

// `from` if given, else what the installation runs (after an upgrade that
// was cut off: what it ran before), else what is in the directory `installed`
// of the record, else what lies beside this program. Only the first and the
// last can change what runs.
ProgramChoice choose_programs(const Layout& layout, const std::optional<std::string>& from,
                              const std::filesystem::path& own_directory,
                              const std::filesystem::path& installed = {});

// Copies plan.programs to its place, makes it the current set, and puts
// dstackup and dstack on the PATH unless somebody else's are there. Needs
// plan.programs. Without plan.start the set is a decision, not an attempt: a
// later install takes it.
InstallStep programs_step(InstallContext& context);
// After the services: they came up with these programs. Until then a later install goes back to those of
// before.
InstallStep programs_well_step(InstallContext& context);
// After that: takes away what the installation has of programs and commands in places that it uses no more.
// nullopt when there is nothing.
std::optional<InstallStep> former_programs_step(InstallContext& context);

}  // namespace dstack::host
