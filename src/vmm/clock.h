// Time as a seam, so that lifecycle tests need not wait.
#pragma once

#include <chrono>
#include <cstdint>

namespace dstack::vmm {

class Clock {
 public:
  virtual ~Clock() = default;
  // Milliseconds since 1970.
  virtual std::int64_t wall_ms() const = 0;
  // Milliseconds that only grow.
  virtual std::int64_t steady_ms() const = 0;
};

class SystemClock : public Clock {
 public:
  std::int64_t wall_ms() const override {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
  std::int64_t steady_ms() const override {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

}  // namespace dstack::vmm
