// One log line per decision, at a bounded rate for each verdict: a flood of requests cannot fill a disk, and
// a flood of denied ones hides no key release.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "app/decision.h"

namespace dstack::auth {

class DecisionLog {
 public:
  using Sink = std::function<void(std::string_view line)>;
  using Clock = std::function<std::chrono::steady_clock::time_point()>;

  // Defaults: base::log at info and the steady clock.
  explicit DecisionLog(Sink sink = {}, Clock now = {});

  void write(std::string_view target, const app::BootInfo& boot, const app::Decision& decision,
             std::chrono::microseconds latency);
  // Of both verdicts.
  std::uint64_t suppressed() const { return m_suppressed; }

  // Lines of one verdict that may follow each other at once, and lines a second in the long run.
  static constexpr double k_burst = 100;
  static constexpr double k_per_second = 5;

 private:
  struct Budget {
    double lines = k_burst;
    std::chrono::steady_clock::time_point last;
    std::uint64_t unreported = 0;  // left out since the last line of this verdict
  };

  Sink m_sink;
  Clock m_now;
  Budget m_allows;
  Budget m_denies;
  std::uint64_t m_suppressed = 0;
};

// `decision=allow target=app app=.. compose=.. image=.. device=.. reason="ok" us=12`. Values from the request
// are cut to 80 characters and reduced to those of identifiers, so that none can pose as another key.
std::string decision_line(std::string_view target, const app::BootInfo& boot, const app::Decision& decision,
                          std::chrono::microseconds latency);

}  // namespace dstack::auth
