// Bytes that are wiped when they go away.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include "base/bytes.h"

namespace dstack::crypto {

// Overwrites memory in a way the compiler does not remove.
void cleanse(void* data, std::size_t size);

// Key material. Moves freely; copies only by clone(); memory is overwritten on destruction and on
// move-assignment. Has no formatting and no comparison other than equal_constant_time(a.view(), b.view()).
class Secret {
 public:
  Secret() = default;
  explicit Secret(base::ByteView bytes) : m_bytes(bytes.begin(), bytes.end()) {}
  explicit Secret(std::size_t size) : m_bytes(size) {}
  // Takes the bytes over without a copy.
  explicit Secret(base::Bytes&& bytes) : m_bytes(std::move(bytes)) {}
  Secret(Secret&& other) noexcept : m_bytes(std::exchange(other.m_bytes, {})) {}
  Secret& operator=(Secret&& other) noexcept {
    if (this != &other) {
      wipe();
      m_bytes = std::exchange(other.m_bytes, {});
    }
    return *this;
  }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret() { wipe(); }

  Secret clone() const { return Secret(view()); }
  base::ByteView view() const { return m_bytes; }
  std::string_view text() const { return base::as_text(m_bytes); }
  std::uint8_t* data() { return m_bytes.data(); }
  std::size_t size() const { return m_bytes.size(); }
  bool empty() const { return m_bytes.empty(); }

 private:
  void wipe() { cleanse(m_bytes.data(), m_bytes.size()); }
  base::Bytes m_bytes;
};

}  // namespace dstack::crypto
