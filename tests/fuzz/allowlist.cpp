// The allow-list. One that is accepted holds no blank entry, and never grants what names nothing.
#include "app/allowlist.h"

#include "app/decision.h"
#include "base/bytes.h"
#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto list = app::parse_allowlist(fuzz::text(data, size));
  if (!list) {
    FUZZ_EXPECT(list.error().code == base::Code::bad_allowlist);
    return 0;
  }
  const auto normal = [](const app::HexSet& set) {
    for (const auto& entry : set) {
      FUZZ_EXPECT(!entry.empty() && base::normalize_hex(entry) == entry);
    }
  };
  normal(list->os_images);
  normal(list->kms_devices);
  normal(list->kms_mr_aggregated);
  for (const auto& [id, app] : list->apps) {
    FUZZ_EXPECT(!id.empty());
    normal(app.compose_hashes);
    normal(app.devices);
  }
  FUZZ_EXPECT(!app::decide_app(&*list, {}).allowed && !app::decide_kms(&*list, {}).allowed);
  return 0;
}
