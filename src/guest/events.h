// The runtime event log: what this boot extends into RTMR3 (spec/guest-kms.md section 3.4).
#pragma once

#include <filesystem>
#include <functional>
#include <mutex>
#include <vector>

#include "attest/event_log.h"
#include "base/result.h"

namespace dstack::guest {

// Thread-safe. The register is extended before the line is written; a failed extension writes nothing.
class EventLog {
 public:
  using Extend = std::function<base::Result<>(const attest::RuntimeEvent&)>;

  // JSON lines (event, payload in base64) go to `file`, mode 0600; its directory is made. `extend` puts the
  // digest into a hardware register; the simulated platform has none, and its RTMR3 is the replay of this
  // log.
  static base::Result<std::unique_ptr<EventLog>> create(std::filesystem::path file, Extend extend = {});

  base::Result<> emit(std::string_view name, base::ByteView payload = {});
  std::vector<attest::RuntimeEvent> events() const;

 private:
  EventLog(std::filesystem::path file, Extend extend)
      : m_file(std::move(file)), m_extend(std::move(extend)) {}

  mutable std::mutex m_mutex;
  std::filesystem::path m_file;
  Extend m_extend;
  std::vector<attest::RuntimeEvent> m_events;
};

}  // namespace dstack::guest
