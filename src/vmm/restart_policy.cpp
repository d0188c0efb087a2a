#include "vmm/restart_policy.h"

#include <algorithm>

namespace dstack::vmm {

namespace {

std::int64_t milliseconds(std::chrono::seconds value) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(value).count();
}

}  // namespace

RestartPolicy::Action RestartPolicy::look(std::int64_t steady_ms, bool running) {
  if (running) {
    m_running_since = m_running_since.value_or(steady_ms);
    if (steady_ms - *m_running_since >= milliseconds(m_policy.reset_window)) {
      reset();
      m_running_since = steady_ms;
    }
    return Action::none;
  }
  m_running_since.reset();
  if (!m_policy.enabled || m_exhausted) {
    return Action::none;
  }
  if (!m_next) {
    m_next = steady_ms + milliseconds(m_policy.initial_backoff);
  }
  if (steady_ms < *m_next) {
    return Action::none;
  }
  if (m_attempts >= m_policy.max_retries) {
    m_exhausted = true;
    return Action::exhausted;
  }
  ++m_attempts;
  const auto limit = milliseconds(m_policy.max_backoff);
  auto delay = milliseconds(m_policy.initial_backoff);
  for (unsigned i = 0; i < m_attempts && delay < limit; ++i) {
    delay *= 2;
  }
  m_next = steady_ms + std::min(delay, limit);
  return Action::start;
}

void RestartPolicy::reset() {
  m_attempts = 0;
  m_exhausted = false;
  m_next.reset();
  m_running_since.reset();
}

}  // namespace dstack::vmm
