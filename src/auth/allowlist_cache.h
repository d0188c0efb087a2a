// The allow-list as it is on disk at this moment, parsed again only when the file has changed.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "app/allowlist_file.h"
#include "base/result.h"

namespace dstack::auth {

// One version of the file. Immutable; stays valid for who holds it after the file has changed.
struct Snapshot {
  std::optional<app::Allowlist> allowlist;  // empty: the file cannot be used, see `error`
  base::Error error;
};

// app::load_allowlist() with the strict profile forced on, if so asked, and with errors that name the file.
base::Result<app::LoadedAllowlist> load_for_decisions(const std::filesystem::path& path, bool force_strict);

class AllowlistCache {
 public:
  using Clock = std::function<timespec()>;
  // `force_strict` turns the stricter profile on whatever the file says. `now` is the clock that stamps
  // files.
  explicit AllowlistCache(std::filesystem::path path, bool force_strict = false, Clock now = {});

  // Looks at the file's identity on every call. Never null.
  std::shared_ptr<const Snapshot> get();
  const std::filesystem::path& path() const { return m_path; }
  bool force_strict() const { return m_force_strict; }
  // How often the file was read and parsed.
  std::uint64_t loads() const { return m_loads; }

 private:
  std::shared_ptr<const Snapshot> load();

  std::filesystem::path m_path;
  bool m_force_strict;
  Clock m_now;
  std::uint64_t m_loads = 0;
  std::shared_ptr<const Snapshot> m_snapshot;
  std::shared_ptr<const Snapshot> m_retired;  // the one before, until the next call
  app::FileIdentity m_identity;
  // Whether an unchanged identity proves an unchanged content.
  bool m_settled = false;
};

}  // namespace dstack::auth
