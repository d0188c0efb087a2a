// The settings of a transient unit as values: said to systemd over D-Bus, or written down as a unit file,
// from one list, so that what is checked offline is what runs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

struct sd_bus_message;

namespace dstack::host {

struct UnitSetting {
  struct Exec {
    std::vector<std::string> argv;
  };
  struct Words {
    std::vector<std::string> words;
  };
  struct Devices {
    std::vector<std::string> nodes;  // to read and write
  };
  struct Binds {
    std::vector<std::string> paths;  // read-only, passed over when missing
  };
  struct Microseconds {
    std::uint64_t value = 0;
  };
  struct Mode {
    std::uint32_t value = 0;
  };
  // What a forbidden system call fails with.
  struct Eperm {};
  struct Descriptor {
    int fd = -1;
  };
  // A bit set of which none is set: no capabilities, no namespaces.
  struct None {};
  struct SystemCalls {
    std::vector<std::string> allowed;
    std::vector<std::string> denied;  // of these
  };
  struct Families {
    std::vector<std::string> allowed;
  };
  using Value = std::variant<std::string, bool, std::uint64_t, Exec, Words, Devices, Binds, Microseconds,
                             Mode, Eperm, Descriptor, None, SystemCalls, Families>;

  std::string name;      // of the D-Bus property
  std::string key = {};  // in a unit file, when it differs
  Value value;
  bool in_file = true;
};

// Negative errno on failure.
int append_settings(sd_bus_message* message, const std::vector<UnitSetting>& settings);
// The lines of a [Service] section.
base::Result<std::string> render_settings(const std::vector<UnitSetting>& settings);

}  // namespace dstack::host
