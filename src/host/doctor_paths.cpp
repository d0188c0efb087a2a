// Checks of who can change what root's services run and read.
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "base/format.h"
#include "base/trusted_path.h"
#include "host/doctor_checks.h"

namespace dstack::host::checks {

Finding directories(const CheckContext& context) {
  const auto& l = context.facts.layout;
  std::vector<std::filesystem::path> all = {l.state, l.config, l.libexec, l.bin, l.share, l.cache, l.run};
  // These are run where they are.
  const auto& named = context.facts.named;
  for (const std::filesystem::path program : {named.vmm, named.auth, named.supervisor, context.facts.qemu}) {
    if (program.is_absolute()) {
      all.push_back(program.parent_path());
    }
  }
  std::set<std::string> seen;
  std::string evidence, fix;
  for (const auto& directory : all) {
    const auto found = base::find_untrusted_directory(directory);
    if (found && seen.insert(found->directory.string()).second) {
      evidence +=
          base::format("{}{} {}", evidence.empty() ? "" : "; ", found->directory.string(), found->why);
      fix = fix.empty() ? found->fix : fix;
    }
  }
  return evidence.empty() ? ok("only root can change where files are kept and programs run from")
                          : failed(evidence + ": root's services run programs from there", fix);
}

}  // namespace dstack::host::checks
