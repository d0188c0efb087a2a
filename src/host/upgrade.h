// Changing the programs of a running installation: switch, restart, look, and back again when they are not
// well.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "host/programs.h"

namespace dstack::host {

// What was begun and is not known to be well: written before the switch, removed after the health check.
struct PendingUpgrade {
  std::string from, to;  // ids of program sets; no `from`: nothing has run well yet
};
// nullopt when there is no file. Code::state_corrupt names it and the way out.
base::Result<std::optional<PendingUpgrade>> load_pending_upgrade(const std::filesystem::path& path);
base::Result<> save_pending_upgrade(const std::filesystem::path& path, const PendingUpgrade& pending);

struct UpgradeActions {
  // Has the services run the programs of this set, and no others; fails when one does not come up.
  std::function<base::Result<>(const std::string& id)> run;
  // Is all as well as it was before?
  std::function<base::Result<>()> check;
  std::function<void(std::string_view line)> report;
};

class Upgrade {
 public:
  Upgrade(ProgramStore store, std::filesystem::path pending_file, UpgradeActions actions)
      : m_store(std::move(store)), m_pending(std::move(pending_file)), m_actions(std::move(actions)) {}

  // The upgrade that was cut off and that recover() would undo. Fails when there is nothing to go back to.
  base::Result<std::optional<PendingUpgrade>> unfinished() const;
  // Goes back to the set that ran before an upgrade that was cut off; says which one it was, if there was
  // one.
  base::Result<std::optional<PendingUpgrade>> recover() const;
  // To the set `to`, which is in the store; `running` is what the services run if that is not the current
  // one, after an install that chose programs and started nothing. When it does not come up or the check
  // fails, the services run the set of before again and the result is Code::upgrade_failed with the reason.
  base::Result<> switch_to(const std::string& to, const std::optional<std::string>& running = {}) const;

 private:
  base::Result<> go_back(const PendingUpgrade& pending) const;

  ProgramStore m_store;
  std::filesystem::path m_pending;
  UpgradeActions m_actions;
};

}  // namespace dstack::host
