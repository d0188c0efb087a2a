#include "guest/timeline.h"

#include <time.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace dstack::guest {

std::uint64_t milliseconds_since_boot() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000 + static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

void Timeline::mark(std::string_view stage, std::uint64_t milliseconds) {
  const std::lock_guard lock(m_mutex);
  const auto known = std::ranges::find(m_marks, stage, &std::pair<std::string, std::uint64_t>::first);
  if (known != m_marks.end()) {
    known->second = milliseconds;
  } else {
    m_marks.emplace_back(stage, milliseconds);
  }
}

std::string Timeline::to_json() const {
  const std::lock_guard lock(m_mutex);
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const auto& [stage, milliseconds] : m_marks) {
    out[stage] = milliseconds;
  }
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace dstack::guest
