// What QEMU says about itself.
#pragma once

#include <compare>
#include <string_view>

#include "base/result.h"

namespace dstack::host {

struct QemuVersion {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned patch = 0;
  auto operator<=>(const QemuVersion&) const = default;
};
// From the output of `qemu --version`. Code::parse.
base::Result<QemuVersion> parse_qemu_version(std::string_view output);

}  // namespace dstack::host
