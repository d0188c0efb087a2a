// Archives from elsewhere, and the names in them.
#include "host/archive.h"
#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  host::ArchiveLimits limits;
  limits.max_total = 1 << 20;
  limits.max_entries = 100;
  const auto is_safe = [](const std::string& path) {
    return !path.starts_with('/') && path != ".." && !path.starts_with("../") && !path.ends_with("/..") &&
           path.find("/../") == std::string::npos && path.find('\0') == std::string::npos;
  };
  if (const auto entries = host::check_archive(fuzz::bytes(data, size), limits)) {
    std::uint64_t total = 0;
    FUZZ_EXPECT(!entries->empty() && entries->size() <= limits.max_entries);
    for (const auto& entry : *entries) {
      FUZZ_EXPECT(!entry.path.empty() && is_safe(entry.path));
      total += entry.size;
    }
    FUZZ_EXPECT(total <= limits.max_total);
  }
  if (const auto path = host::clean_entry_path(fuzz::text(data, size))) {
    FUZZ_EXPECT(is_safe(*path));
  }
  return 0;
}
