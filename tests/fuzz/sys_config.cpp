// The small JSON files that the host hands to a guest: .sys-config.json, .instance_info, .tee-simulator.json.
#include "fuzz.h"
#include "guest/config.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = fuzz::text(data, size);
  if (const auto config = guest::parse_sys_config(text)) {
    FUZZ_EXPECT(config->kms_urls.size() <= 16);
  }
  if (const auto info = guest::parse_instance_info(text)) {
    const auto again = guest::parse_instance_info(guest::to_json(*info));
    FUZZ_EXPECT(again && again->instance_id == info->instance_id && again->app_id == info->app_id);
  }
  if (const auto seed = guest::parse_simulator_seed(text)) {
    FUZZ_EXPECT(seed->size() == 32);
  }
  return 0;
}
