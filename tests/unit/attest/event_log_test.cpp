#include "attest/event_log.h"

#include <gtest/gtest.h>

#include "unit/attest/fixtures.h"

using namespace dstack;
using attest::RuntimeEvent;
using attest::TdxEvent;
using attest::fixtures::hex;
using base::Bytes;
using base::to_hex;

// spec/guest-kms.md section 10.
TEST(EventLog, DigestsMatchTheGoldenValues) {
  EXPECT_EQ(
      to_hex(attest::event_digest({"app-id", hex("deadbeef")})),
      "67b4be4efed0893cfa2bb1d35dca209ad8348b4c97f980807bcde8b9a0f26398dd0923d6eccb5aa2096d98046da8740f");
  EXPECT_EQ(
      to_hex(attest::event_digest({"system-preparing", {}})),
      "f9974020ef507068183313d0ca808e0d1ca9b2d1ad0c61f5784e7157c362c06536f5ddacdad4451693f48fcc72fff624");
  EXPECT_EQ(
      to_hex(attest::event_digest({"boot-mr-done", {}})),
      "98bd7e6bd3952720b65027fd494834045d06b4a714bf737a06b874638b3ea00ff402f7f583e3e3b05e921c8570433ac6");
  EXPECT_EQ(
      to_hex(attest::event_digest({"system-ready", {}})),
      "1a76b2a80a0be71eae59f80945d876351a7a3fb8e9fd1ff1cede5734aa84ea11fd72b4edfbb6f04e5a85edd114c751bd");
}

TEST(EventLog, BootTimeReplayStopsBehindBootMrDone) {
  auto events = attest::fixtures::launch_events();
  const auto sealed = attest::replay(events);
  EXPECT_EQ(attest::replay_boot_time(events), sealed);
  events.push_back({"key-provider", base::to_bytes("{}")});
  EXPECT_EQ(attest::replay_boot_time(events), sealed);
  EXPECT_NE(attest::replay(events), sealed);
  // A second boot-mr-done does not move the end.
  events.push_back({"boot-mr-done", {}});
  EXPECT_EQ(attest::replay_boot_time(events), sealed);
  const std::vector<RuntimeEvent> without(events.begin(), events.begin() + 4);
  EXPECT_EQ(attest::replay_boot_time(without), attest::replay(without));
  EXPECT_EQ(attest::replay({}), attest::Register{});
}

TEST(EventLog, OrderNameAndPayloadAllCount) {
  const auto events = attest::fixtures::launch_events();
  const auto whole = attest::replay(events);
  for (std::size_t i = 0; i < events.size(); ++i) {
    auto renamed = events;
    renamed[i].event += "x";
    EXPECT_NE(attest::replay(renamed), whole);
    auto changed = events;
    changed[i].payload.push_back(0);
    EXPECT_NE(attest::replay(changed), whole);
    auto dropped = events;
    dropped.erase(dropped.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_NE(attest::replay(dropped), whole);
  }
  auto swapped = events;
  std::swap(swapped[1], swapped[2]);
  EXPECT_NE(attest::replay(swapped), whole);
}

TEST(EventLog, JsonRoundTripsInTheKnownForm) {
  const auto events = attest::to_tdx_events(attest::fixtures::launch_events());
  const std::string text = attest::events_to_json(events);
  EXPECT_TRUE(text.starts_with(R"([{"imr":3,"event_type":134217729,"digest":"f9974020)")) << text;
  EXPECT_EQ(*attest::events_from_json(text), events);
  EXPECT_EQ(attest::events_to_json({}), "[]");
}

TEST(EventLog, BadJsonIsRefused) {
  for (const char* text :
       {"", "{}", "[1]", "[{}]", R"([{"imr":4,"event_type":1}])", R"([{"imr":-1,"event_type":1}])",
        R"([{"imr":0,"event_type":4294967296}])", R"([{"imr":0,"event_type":1,"digest":"aa"}])",
        R"([{"imr":0,"event_type":1,"digest":"zz"}])", R"([{"imr":0,"event_type":1,"event":7}])",
        R"([{"imr":3,"event_type":134217729,"event":"a","version":2}])", R"([{"imr":0,"event_type":"1"}])",
        "[{\"imr\":0,\"event_type\":1}"}) {
    const auto events = attest::events_from_json(text);
    ASSERT_FALSE(events) << text;
    EXPECT_EQ(events.error().code, base::Code::evidence_format) << text;
  }
  EXPECT_FALSE(attest::events_from_json(std::string(100'000, '[')));
  EXPECT_TRUE(attest::events_from_json(R"([{"imr":0,"event_type":1,"future":{"a":[1]}}])"));
}

TEST(EventLog, StrippedShapeKeepsAcpiDigestsAndRuntimePayloads) {
  const TdxEvent acpi{0, 10, Bytes(48, 1), "acpi-loader", base::to_bytes("ACPI DATA")};
  const TdxEvent firmware{0, 1, Bytes(48, 2), "", Bytes(10, 1)};
  auto runtime = attest::to_tdx_event({"app-id", Bytes(20, 1)});
  const TdxEvent all[] = {firmware, acpi, runtime};
  const auto stripped = attest::strip_for_certificate(all);
  runtime.digest.clear();
  EXPECT_EQ(stripped, (std::vector<TdxEvent>{acpi, runtime}));
}

// Real machines' logs lead to what their quotes say.
TEST(EventLog, RecordedLogReplaysToAllFourRegisters) {
  REQUIRE_FIXTURE(text, "tdx/quote-report.json");
  const auto report = nlohmann::json::parse(text);
  const auto events = attest::events_from_json(report["event_log"].get<std::string>()).value();
  const auto quote = attest::Quote::parse(hex(report["quote"])).value();
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(attest::replay_register(events, i), quote.report.rtmr[i]) << i;
  }
  EXPECT_EQ(attest::replay(attest::runtime_events(events)), quote.report.rtmr[3]);
  // The recorded runtime digests are the ones that are computed here.
  for (const auto& event : events) {
    if (event.imr == 3) {
      EXPECT_EQ(to_hex(event.digest), to_hex(attest::event_digest({event.event, event.event_payload})));
    }
  }
}

TEST(EventLog, RecordedLogWithoutRuntimeDigestsReplays) {
  REQUIRE_FIXTURE(text, "tdx/tdx-lite-getquote.json");
  const auto report = nlohmann::json::parse(text);
  const auto events = attest::events_from_json(report["event_log"].get<std::string>()).value();
  const auto quote = attest::Quote::parse(hex(report["quote"])).value();
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(attest::replay_register(events, i), quote.report.rtmr[i]) << i;
  }
}
