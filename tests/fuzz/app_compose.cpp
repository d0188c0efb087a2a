// The app-compose manifest.
#include "app/app_compose.h"

#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto manifest = app::parse_app_compose(fuzz::text(data, size));
  FUZZ_EXPECT(manifest || !manifest.error().message.empty());
  FUZZ_EXPECT(app::compose_hash(fuzz::text(data, size)).size() == 64);
  return 0;
}
