// Recorded evidence, and simulated evidence that tests take apart.
#pragma once

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "attest/event_log.h"
#include "attest/simulated.h"
#include "base/fs.h"

namespace dstack::attest::fixtures {

// A file of the recorded fixtures, or nullopt where they are not installed.
inline std::optional<std::string> read(const std::string& name) {
  const char* from_env = std::getenv("DSTACK_FIXTURES");
  const std::filesystem::path root =
      from_env != nullptr ? std::filesystem::path(from_env)
                          : std::filesystem::path(DSTACK_SOURCE_DIR) / ".." / "shared" / "fixtures";
  auto text = base::read_file(root / name);
  return text ? std::optional(*text) : std::nullopt;
}

inline base::Bytes hex(const std::string& text) {
  return base::from_hex(text).value();
}

inline const base::Bytes k_seed(32, 0x5e);
inline const base::Bytes k_os_image_hash(32, 0xa1);
inline const std::string k_vm_config = R"({"spec_version":1,"os_image_hash":")" +
                                       base::to_hex(k_os_image_hash) +
                                       R"(","cpu_count":2,"memory_size":2147483648})";

inline std::vector<RuntimeEvent> launch_events() {
  return {{"system-preparing", {}},
          {"app-id", base::Bytes(20, 0x11)},
          {"compose-hash", base::Bytes(32, 0xc0)},
          {"instance-id", base::Bytes(20, 0x22)},
          {"boot-mr-done", {}}};
}

inline SimulatedPlatform platform(const base::Bytes& seed = k_seed) {
  return SimulatedPlatform::from_seed(seed).value();
}

}  // namespace dstack::attest::fixtures

#define REQUIRE_FIXTURE(target, name)                           \
  const auto target##_text = attest::fixtures::read(name);      \
  if (!target##_text) {                                         \
    GTEST_SKIP() << "recorded fixture not installed: " << name; \
  }                                                             \
  const std::string& target = *target##_text
