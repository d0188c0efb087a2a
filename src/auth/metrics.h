// What the webhook has done, in Prometheus' text format.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

namespace dstack::auth {

class Metrics {
 public:
  // `reason` must come from a small fixed set: every value is a time series.
  void decision(std::string_view target, bool allowed, std::string_view reason, double seconds);
  // A request that got no decision.
  void refused(int status);

  struct State {
    bool usable = false;
    std::uint64_t apps = 0;
    std::uint64_t loads = 0;
    std::uint64_t suppressed_log_lines = 0;
  };
  std::string text(const State& state) const;

 private:
  // By target, verdict and reason.
  std::map<std::tuple<std::string, std::string, std::string>, std::uint64_t, std::less<>> m_decisions;
  std::map<int, std::uint64_t> m_refused;
  double m_seconds = 0;
  std::uint64_t m_count = 0;
};

}  // namespace dstack::auth
