#include "attest/versioned.h"

#include <gtest/gtest.h>

#include "crypto/hash.h"
#include "unit/attest/fixtures.h"

using namespace dstack;
using attest::Attestation;
using attest::fixtures::hex;
using base::Bytes;
using base::Code;
using base::to_hex;

namespace {

Attestation sample() {
  return attest::fixtures::platform()
      .attest(attest::fixtures::k_vm_config, attest::fixtures::launch_events(), attest::ReportData{})
      .value();
}

}  // namespace

TEST(Versioned, EmptyContainerHasTheKnownBytes) {
  EXPECT_EQ(to_hex(Attestation{}.encode()), "0000000000" + std::string(128, '0') + "00");
}

TEST(Versioned, RoundTrips) {
  const auto attestation = sample();
  const Bytes bytes = attestation.encode();
  const auto again = Attestation::decode(bytes).value();
  EXPECT_EQ(again.encode(), bytes);
  EXPECT_EQ(again.runtime_events, attestation.runtime_events);
  EXPECT_EQ(again.event_log, attestation.event_log);
  EXPECT_EQ(again.config, attestation.config);
}

TEST(Versioned, IsRefusedWhenCutOrPadded) {
  Bytes bytes = sample().encode();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_FALSE(Attestation::decode(base::ByteView(bytes).first(size))) << size;
  }
  bytes.push_back(0);
  EXPECT_EQ(Attestation::decode(bytes).error().code, Code::evidence_format);
}

TEST(Versioned, OtherContainersAreRefusedByName) {
  EXPECT_EQ(Attestation::decode(Bytes{0x83, 0x00}).error().code, Code::unsupported);
  EXPECT_EQ(Attestation::decode(Bytes{0xde, 0x00}).error().code, Code::unsupported);
  EXPECT_EQ(Attestation::decode(Bytes{0x00, 0x03}).error().code, Code::unsupported);
  EXPECT_EQ(Attestation::decode(Bytes{0x01, 0x00}).error().code, Code::evidence_format);
}

TEST(Versioned, HugeCountsDoNotAllocate) {
  // 2^30 - 1 events announced, none there.
  EXPECT_FALSE(Attestation::decode(hex("000000feffffff")));
  // A quote of almost 4 GiB announced.
  EXPECT_FALSE(Attestation::decode(hex("000003ffffffff00")));
  // Not the shortest form of a length.
  EXPECT_FALSE(Attestation::decode(hex("00000100" + std::string(4 + 128, '0') + "00")));
}

TEST(Versioned, ConfigIsUnwrapped) {
  EXPECT_EQ(*attest::unwrap_vm_config(""), "");
  EXPECT_EQ(*attest::unwrap_vm_config(R"({"os_image_hash":"aa"})"), R"({"os_image_hash":"aa"})");
  EXPECT_EQ(*attest::unwrap_vm_config(R"({"kms_urls":[],"vm_config":"{\"cpu_count\":1}"})"),
            R"({"cpu_count":1})");
  EXPECT_FALSE(attest::unwrap_vm_config("not JSON"));
  EXPECT_FALSE(attest::unwrap_vm_config(R"({"vm_config":{}})"));
}

TEST(Versioned, OsImageHashIsStrict) {
  EXPECT_EQ(*attest::os_image_hash_of(attest::fixtures::k_vm_config), attest::fixtures::k_os_image_hash);
  EXPECT_TRUE(attest::os_image_hash_of("")->empty());
  EXPECT_TRUE(attest::os_image_hash_of("{}")->empty());
  EXPECT_FALSE(attest::os_image_hash_of(R"({"os_image_hash":"aa"})"));
  EXPECT_FALSE(attest::os_image_hash_of(R"({"os_image_hash":7})"));
  EXPECT_FALSE(attest::os_image_hash_of("[]"));
}

TEST(Versioned, RecordedSimulatorAttestationDecodes) {
  REQUIRE_FIXTURE(raw, "simulator/attestation.bin");
  const auto attestation = Attestation::decode(base::as_bytes(raw)).value();
  EXPECT_EQ(base::as_text(attestation.encode()), raw);
  EXPECT_EQ(attestation.quote.size(), 5010U);
  EXPECT_EQ(attestation.event_log.size(), 33U);
  EXPECT_EQ(attestation.runtime_events.size(), 9U);
  const auto quote = attest::Quote::parse(attestation.quote).value();
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(attest::replay_register(attestation.event_log, i), quote.report.rtmr[i]) << i;
  }
  EXPECT_EQ(attest::replay(attestation.runtime_events), quote.report.rtmr[3]);
  EXPECT_EQ(attest::runtime_events(attestation.event_log), attestation.runtime_events);
}

TEST(Versioned, RecordedStrippedAttestationDecodes) {
  REQUIRE_FIXTURE(text, "tdx/tdx-lite-attestation.json");
  const Bytes bytes = hex(nlohmann::json::parse(text)["attestation"]);
  const auto attestation = Attestation::decode(bytes).value();
  EXPECT_EQ(attestation.encode(), bytes);
  EXPECT_EQ(attestation.event_log.size(), 12U);
  // It already has the shape that certificates carry.
  EXPECT_EQ(attestation.stripped().encode(), bytes);
  const auto quote = attest::Quote::parse(attestation.quote).value();
  EXPECT_EQ(attest::replay(attestation.runtime_events), quote.report.rtmr[3]);
  EXPECT_FALSE(attest::os_image_hash_of(*attestation.vm_config())->empty());
}
