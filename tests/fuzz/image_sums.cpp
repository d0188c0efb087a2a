// sha256sum.txt of guest images.
#include "host/image_sums.h"
#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (const auto sums = host::parse_sums(fuzz::text(data, size))) {
    FUZZ_EXPECT(!sums->empty());
    for (const auto& [sha256, name] : *sums) {
      FUZZ_EXPECT(sha256.size() == 64 && host::check_image_name(name));
    }
  }
  return 0;
}
