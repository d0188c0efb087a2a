// When each stage of a boot ended, for the `boot.timing` event and for `./dev bench`.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dstack::guest {

// Milliseconds since the kernel started (CLOCK_BOOTTIME).
std::uint64_t milliseconds_since_boot();

// Thread-safe.
class Timeline {
 public:
  void mark(std::string_view stage) { mark(stage, milliseconds_since_boot()); }
  // A stage that is marked again keeps its place and takes the new time.
  void mark(std::string_view stage, std::uint64_t milliseconds);
  // {"init":812,"network":934,...} in the order of the first marks.
  std::string to_json() const;

 private:
  mutable std::mutex m_mutex;
  std::vector<std::pair<std::string, std::uint64_t>> m_marks;
};

}  // namespace dstack::guest
