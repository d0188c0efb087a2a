// metadata.json of guest images, their version, and file names.
#include "fuzz.h"
#include "host/image.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = fuzz::text(data, size);
  const auto metadata = host::parse_image_metadata(text);
  if (metadata) {
    (void)host::parse_image_version(metadata->version);
  }
  (void)host::parse_image_version(text);
  if (host::check_image_name(text)) {
    FUZZ_EXPECT(!text.empty() && text.find('/') == std::string_view::npos && text.front() != '.');
  }
  return 0;
}
