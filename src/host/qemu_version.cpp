#include "host/qemu_version.h"

#include <charconv>
#include <iterator>

namespace dstack::host {

base::Result<QemuVersion> parse_qemu_version(std::string_view output) {
  const auto at = output.find("version ");
  QemuVersion version;
  if (at != std::string_view::npos) {
    const char* p = output.data() + at + 8;
    const char* end = output.data() + output.size();
    unsigned* const parts[] = {&version.major, &version.minor, &version.patch};
    int read = 0;
    for (auto* part : parts) {
      const auto [next, error] = std::from_chars(p, end, *part);
      if (error != std::errc{}) {
        break;
      }
      ++read;
      p = next;
      if (p == end || *p != '.') {
        break;
      }
      ++p;
    }
    if (read >= 2) {
      return version;
    }
  }
  return base::fail(base::Code::parse, "QEMU's version cannot be read from its --version output",
                    "name a QEMU system emulator");
}

}  // namespace dstack::host
