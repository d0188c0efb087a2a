// When a VM that ended by itself is started again (spec/host.md section 4.10).
#pragma once

#include <cstdint>
#include <optional>

#include "vmm/config.h"

namespace dstack::vmm {

class RestartPolicy {
 public:
  explicit RestartPolicy(const AutoRestartPolicy& policy) : m_policy(policy) {}

  enum class Action { none, start, exhausted };
  // Asked at each look at a VM that should run. The first look at one that does not run schedules an attempt
  // after the initial back-off; after max_retries attempts it says `exhausted` once and then nothing.
  Action look(std::int64_t steady_ms, bool running);
  // A user started or stopped the VM: begin anew.
  void reset();
  unsigned attempts() const { return m_attempts; }

 private:
  AutoRestartPolicy m_policy;
  unsigned m_attempts = 0;
  bool m_exhausted = false;
  std::optional<std::int64_t> m_next;
  std::optional<std::int64_t> m_running_since;
};

}  // namespace dstack::vmm
