// BootInfo as the KMS sends it, and the decision over it.
#include <nlohmann/json.hpp>

#include "app/decision.h"
#include "app/plain_json.h"
#include "app/strict_json.h"
#include "base/bytes.h"
#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const app::Allowlist list =
      app::parse_allowlist(R"({"osImages":["1f"],"kms":{"mrAggregated":["2e"],"devices":["3d"]},
        "apps":{"aa":{"composeHashes":["cc"],"devices":["dd"]}}})")
          .value();
  // The quick reader takes a part of what the strict one takes, never more.
  app::PlainJson plain(fuzz::text(data, size), 16);
  if (plain.skip() && plain.at_end()) {
    FUZZ_EXPECT(app::parse_json_strict(fuzz::text(data, size), {.max_depth = 16}));
  }
  const auto boot = app::parse_boot_info(fuzz::text(data, size));
  if (!boot) {
    FUZZ_EXPECT(!boot.error().message.empty());
    return 0;
  }
  const auto app = app::decide_app(&list, *boot);
  if (app.allowed) {
    FUZZ_EXPECT(
        base::normalize_hex(boot->os_image_hash) == "1f" && base::normalize_hex(boot->app_id) == "aa" &&
        base::normalize_hex(boot->compose_hash) == "cc" && base::normalize_hex(boot->device_id) == "dd");
  }
  const auto kms = app::decide_kms(&list, *boot);
  if (kms.allowed) {
    FUZZ_EXPECT(base::normalize_hex(boot->mr_aggregated) == "2e" &&
                base::normalize_hex(boot->device_id) == "3d");
  }
  FUZZ_EXPECT(!app::decide_app(nullptr, *boot).allowed && !app::decide_kms(nullptr, *boot).allowed);
  return 0;
}
