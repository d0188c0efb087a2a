// Registers apps in an allow-list, for allowlist_crash_test to kill: allowlist_tool FILE FIRST COUNT
// [--in-place].
// --in-place writes as one must not, without temporary file and sync: it shows that the tests find such a
// writer.
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "app/allowlist_file.h"
#include "base/fd.h"
#include "base/format.h"

using namespace dstack;

namespace {

int write_in_place(const std::string& path) {
  const base::Fd fd(::open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
  const std::string text = "{\"apps\":{\"" + std::string(40, '7') + "\":{}},\"filler\":\"";
  const std::string rest = std::string(9000, 'x') + "\"}\n";
  for (const auto& part : {text, rest}) {
    if (::write(fd.get(), part.data(), part.size()) != static_cast<ssize_t>(part.size())) {
      return 1;
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    return 2;
  }
  const std::string path = argv[1];
  if (argc > 4) {
    return write_in_place(path);
  }
  const app::AllowlistFile file(path);
  const int first = std::atoi(argv[2]);
  for (int i = first; i < first + std::atoi(argv[3]); ++i) {
    const auto changed = file.register_app(base::format("{:040x}", i), base::format("{:064x}", i));
    if (!changed) {
      std::cerr << changed.error().what() << "\n" << changed.error().fix << "\n";
      return 1;
    }
  }
  return 0;
}
