#include "auth/allowlist_cache.h"

#include <ctime>
#include <utility>

#include "base/format.h"

namespace dstack::auth {

namespace {

// Kernel time stamps advance in steps of up to 10 ms. Two versions within one step can have the same stamps
// (and the same size, and by reuse the same inode number), so a file that has just changed is read again
// until its change lies safely behind the time of reading.
constexpr std::int64_t k_settle_nanoseconds = 50'000'000;

std::int64_t nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

timespec system_now() {
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now;
}

}  // namespace

base::Result<app::LoadedAllowlist> load_for_decisions(const std::filesystem::path& path, bool force_strict) {
  auto loaded = app::load_allowlist(path);
  if (loaded) {
    loaded->allowlist.strict = loaded->allowlist.strict || force_strict;
    return loaded;
  }
  base::Error error = std::move(loaded).error();
  if (error.code == base::Code::bad_allowlist) {
    error = std::move(error).wrap(base::format("the allow-list {} is not valid", path.string()));
    error.fix =
        base::format("repair or restore it, then try \"dstack-auth --config {} --check\"", path.string());
  } else if (error.code == base::Code::not_found) {
    error.fix = "run \"dstackup install\" first, or name the file with --config";
  } else if (error.code == base::Code::permission) {
    error.fix = base::format("let the service's user read {} (mode 0644) and enter its directories (mode x)",
                             path.string());
  }
  return base::fail(std::move(error));
}

AllowlistCache::AllowlistCache(std::filesystem::path path, bool force_strict, Clock now)
    : m_path(std::move(path)),
      m_force_strict(force_strict),
      m_now(now ? std::move(now) : Clock(system_now)) {}

std::shared_ptr<const Snapshot> AllowlistCache::get() {
  if (m_snapshot && m_settled) {
    const auto identity = app::file_identity(m_path);
    if (identity && *identity == m_identity) {
      m_retired.reset();
      return m_snapshot;
    }
  }
  return load();
}

std::shared_ptr<const Snapshot> AllowlistCache::load() {
  const timespec begin = m_now();
  // Taken before reading as well, so that a refusal can be remembered for the file that caused it.
  const auto before = app::file_identity(m_path);
  ++m_loads;
  auto loaded = load_for_decisions(m_path, m_force_strict);
  auto snapshot = std::make_shared<Snapshot>();
  m_settled = false;
  if (loaded) {
    m_identity = loaded->identity;
    m_settled = true;
    snapshot->allowlist = std::move(loaded->allowlist);
  } else {
    snapshot->error = std::move(loaded).error();
    if (before) {
      m_identity = *before;
      m_settled = snapshot->error.code == base::Code::bad_allowlist;
    }
  }
  m_settled = m_settled && nanoseconds(begin) - nanoseconds(m_identity.changed) > k_settle_nanoseconds &&
              nanoseconds(begin) - nanoseconds(m_identity.modified) > k_settle_nanoseconds;
  // Freeing a large index takes as long as making it: not while the first question about the new one waits.
  m_retired = std::exchange(m_snapshot, snapshot);
  return snapshot;
}

}  // namespace dstack::auth
