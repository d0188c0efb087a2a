#include "attest/identity.h"

#include <gtest/gtest.h>

#include "attest/report_data.h"
#include "attest/versioned.h"
#include "unit/attest/fixtures.h"

using namespace dstack;
using attest::MrMode;
using attest::RuntimeEvent;
using base::Bytes;
using base::to_hex;

namespace {

attest::Identity identity(const std::vector<RuntimeEvent>& events, MrMode mode = MrMode::runtime) {
  return attest::identity_of({}, events, Bytes(16, 0), attest::fixtures::k_os_image_hash, mode).value();
}

bool refused(const std::vector<RuntimeEvent>& events) {
  const auto result = attest::identity_of({}, events, {}, {}, MrMode::runtime);
  return !result && result.error().code == base::Code::evidence_replay;
}

}  // namespace

// spec/guest-kms.md section 3.5.
TEST(ReportData, MatchesTheTaggedVector) {
  EXPECT_EQ(to_hex(attest::tagged_report_data("app-data", base::as_bytes("test content"))),
            "7ea0b744ed5e9c0c83ff9f575668e1697652cd349f2027cdf26f918d4c53e8cd50b5ea9b449b4c3d50e20ae00ec29688"
            "d5a214e8"
            "daff8a10041f5d624dae8a01");
}

TEST(ReportData, IsPaddedOnTheRight) {
  EXPECT_EQ(to_hex(*attest::padded_report_data(Bytes{0x12, 0x34})), "1234" + std::string(124, '0'));
  EXPECT_TRUE(attest::padded_report_data(Bytes(64, 1)));
  EXPECT_FALSE(attest::padded_report_data(Bytes(65, 1)));
}

TEST(Identity, ComesFromTheNamedEvents) {
  const auto who = identity(attest::fixtures::launch_events());
  EXPECT_EQ(who.app_id, Bytes(20, 0x11));
  EXPECT_EQ(who.compose_hash, Bytes(32, 0xc0));
  EXPECT_EQ(who.instance_id, Bytes(20, 0x22));
  EXPECT_EQ(who.os_image_hash, attest::fixtures::k_os_image_hash);
  EXPECT_EQ(to_hex(who.device_id), "374708fff7719dd5979ec875d56cd2286f6d3cf7ec317a3b25632aab28ec37bb");
  EXPECT_TRUE(identity({}).app_id.empty());
  EXPECT_EQ(to_hex(attest::identity_of({}, {}, {}, {}, MrMode::runtime)->device_id),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Identity, AmbiguousLogsAreRefused) {
  for (const char* name : {"app-id", "compose-hash", "instance-id"}) {
    auto twice = attest::fixtures::launch_events();
    twice.insert(twice.begin() + 1, RuntimeEvent{name, Bytes(20, 9)});
    EXPECT_TRUE(refused(twice)) << name;
    auto late = attest::fixtures::launch_events();
    late.push_back({name, Bytes(20, 9)});
    EXPECT_TRUE(refused(late)) << name;
    std::erase_if(late, [&, seen = false](const RuntimeEvent& event) mutable {
      const bool first = event.event == name && !seen;
      seen = seen || first;
      return first;
    });
    EXPECT_TRUE(refused(late)) << name << " only behind boot-mr-done";
  }
}

TEST(Identity, EventsBehindSystemReadyDoNotCount) {
  auto events = attest::fixtures::launch_events();
  events.push_back({"system-ready", {}});
  events.push_back({"app-id", Bytes(20, 0x99)});
  events.push_back({"key-provider", base::to_bytes("forged")});
  const auto who = identity(events);
  EXPECT_EQ(who.app_id, Bytes(20, 0x11));
  EXPECT_TRUE(who.key_provider_info.empty());
}

TEST(Identity, BootTimeModeIgnoresWhatComesLater) {
  auto events = attest::fixtures::launch_events();
  const auto sealed = identity(events);
  events.push_back({"key-provider", base::to_bytes(R"({"name":"kms","id":"aa"})")});
  events.push_back({"system-ready", {}});
  const auto boot = identity(events, MrMode::boot_time);
  EXPECT_EQ(boot.mr_aggregated, sealed.mr_aggregated);
  EXPECT_EQ(boot.mr_system, sealed.mr_system);
  EXPECT_TRUE(boot.key_provider_info.empty());
  const auto runtime = identity(events);
  EXPECT_NE(runtime.mr_aggregated, sealed.mr_aggregated);
  EXPECT_NE(runtime.mr_system, sealed.mr_system);
  EXPECT_EQ(base::as_text(runtime.key_provider_info), R"({"name":"kms","id":"aa"})");
}

TEST(Identity, OwnerFieldsJoinTheAggregateOnlyWhenSet) {
  attest::TdReport report;
  const auto plain = attest::identity_of(report, {}, {}, {}, MrMode::runtime)->mr_aggregated;
  report.mr_owner[0] = 1;
  EXPECT_NE(attest::identity_of(report, {}, {}, {}, MrMode::runtime)->mr_aggregated, plain);
}

// spec/guest-kms.md sections 3.6 and 10: values computed from the recorded simulator attestation.
TEST(Identity, RecordedAttestationHasItsKnownIdentity) {
  REQUIRE_FIXTURE(raw, "simulator/attestation.bin");
  const auto attestation = attest::Attestation::decode(base::as_bytes(raw)).value();
  const auto quote = attest::Quote::parse(attestation.quote).value();
  const auto who =
      attest::identity_of(quote.report, attestation.runtime_events, {}, {}, MrMode::runtime).value();
  EXPECT_EQ(to_hex(who.app_id), "5bb4ff9a3837357f19dc176407a5709c62eb6c56");
  EXPECT_EQ(to_hex(who.compose_hash), "c143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a");
  EXPECT_EQ(to_hex(who.instance_id), "1691ed1b47506cad7d08834668691d88246f5b1f");
  EXPECT_EQ(to_hex(who.mr_system), "51ea38f8eee6dc72dbae9b74531ae6d6204295d265dabb4e6c34621a2a1a1197");
  EXPECT_EQ(to_hex(who.mr_aggregated), "85334a62c97d0f8bf82d0245d31b539d17a2d7c258e2a13efc928aaea0e107cb");
}
