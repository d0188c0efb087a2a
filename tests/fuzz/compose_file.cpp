// docker-compose.yaml as far as deploy reads it.
#include "app/compose_file.h"

#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = app::parse_compose_file(fuzz::text(data, size), "compose.yaml");
  if (file) {
    for (const auto& image : file->images()) {
      FUZZ_EXPECT(!image.empty());
    }
    (void)file->may_publish(80, "tcp");
  }
  return 0;
}
