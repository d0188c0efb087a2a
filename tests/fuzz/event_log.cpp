// The event log's JSON. What is accepted survives writing and reading.
#include "attest/event_log.h"

#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto events = attest::events_from_json(fuzz::text(data, size));
  if (events) {
    FUZZ_EXPECT(events->size() <= 4096);
    const auto again = attest::events_from_json(attest::events_to_json(*events));
    FUZZ_EXPECT(again && *again == *events);
    (void)attest::replay_register(*events, 3);
    (void)attest::strip_for_certificate(*events);
  }
  return 0;
}
