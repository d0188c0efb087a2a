#include "attest/verifier.h"

#include <gtest/gtest.h>

#include "attest/versioned.h"
#include "crypto/hash.h"
#include "unit/attest/fixtures.h"

using namespace dstack;
using attest::Attestation;
using attest::MrMode;
using attest::Quote;
using attest::ReportData;
using attest::TrustAnchors;
using attest::fixtures::hex;
using attest::fixtures::k_os_image_hash;
using attest::fixtures::k_vm_config;
using attest::fixtures::launch_events;
using attest::fixtures::platform;
using base::Bytes;
using base::Code;

namespace {

constexpr std::int64_t k_now = 1'800'000'000;

ReportData wanted() {
  ReportData data{};
  data.fill(0x77);
  return data;
}

const attest::SimulatedPlatform& machine() {
  static const auto instance = platform();
  return instance;
}

const TrustAnchors& anchors() {
  static const auto instance = TrustAnchors::insecure_simulated(machine().root_pem()).value();
  return instance;
}

Attestation good() {
  return machine().attest(k_vm_config, launch_events(), wanted()).value();
}

// The code that verify() gives, or nothing when it accepts.
std::optional<Code> refusal(const Attestation& attestation, const TrustAnchors& trusted = anchors()) {
  const auto verdict = attest::verify(attestation.encode(), wanted(), trusted, k_now);
  return verdict ? std::nullopt : std::optional(verdict.error().code);
}

// A good attestation whose quote is replaced.
Attestation with_report(const std::function<void(attest::TdReport&)>& change) {
  auto attestation = good();
  auto report = Quote::parse(attestation.quote)->report;
  change(report);
  attestation.quote = machine().sign_report(report).value();
  return attestation;
}

Attestation with_quote(const std::function<void(Quote&)>& change) {
  auto attestation = good();
  auto quote = Quote::parse(attestation.quote).value();
  change(quote);
  attestation.quote = quote.encode();
  return attestation;
}

}  // namespace

TEST(Verifier, AcceptsSimulatedEvidenceAndNamesItsAnchor) {
  const auto verdict = attest::verify(good().encode(), wanted(), anchors(), k_now);
  ASSERT_TRUE(verdict) << verdict.error().what();
  EXPECT_EQ(verdict->anchor, attest::Anchor::simulated);
  EXPECT_EQ(attest::to_string(verdict->anchor), "simulated");
  EXPECT_EQ(verdict->tcb_status, "Simulated");
  EXPECT_EQ(verdict->tee_variant, "dstack-tdx");
  EXPECT_TRUE(verdict->advisory_ids.empty());
  EXPECT_EQ(verdict->identity.app_id, Bytes(20, 0x11));
  EXPECT_EQ(verdict->identity.os_image_hash, k_os_image_hash);
  EXPECT_EQ(base::to_hex(verdict->identity.device_id),
            "374708fff7719dd5979ec875d56cd2286f6d3cf7ec317a3b25632aab28ec37bb");
  EXPECT_EQ(verdict->mrtd, attest::simulated_mrtd(k_os_image_hash));
}

TEST(Verifier, RootFollowsFromTheSeed) {
  // Another process with the same seed has another root certificate, but the same key: it is the same anchor.
  const auto twin = TrustAnchors::insecure_simulated(platform().root_pem()).value();
  EXPECT_EQ(refusal(good(), twin), std::nullopt);
}

TEST(Verifier, UnknownRootsAreRefused) {
  EXPECT_EQ(refusal(good(), TrustAnchors()), Code::evidence_untrusted);
  const auto other = TrustAnchors::insecure_simulated(platform(Bytes(32, 0x01)).root_pem()).value();
  EXPECT_EQ(refusal(good(), other), Code::evidence_untrusted);
  EXPECT_FALSE(TrustAnchors::insecure_simulated("junk"));
  // A leaf is no root.
  const auto chain = crypto::read_pem_chain(machine().pck_chain_pem()).value();
  EXPECT_FALSE(TrustAnchors::insecure_simulated(chain[0].pem()));
}

TEST(Verifier, ForeignChainWithOurRootAppendedIsRefused) {
  const auto foreign = platform(Bytes(32, 0x02));
  auto attestation = foreign.attest(k_vm_config, launch_events(), wanted()).value();
  auto quote = Quote::parse(attestation.quote).value();
  const auto theirs = crypto::read_pem_chain(foreign.pck_chain_pem()).value();
  quote.pck_chain_pem = theirs[0].pem() + theirs[1].pem() + machine().root_pem();
  attestation.quote = quote.encode();
  EXPECT_EQ(refusal(attestation), Code::evidence_signature);
  // Our own leaf and CA in front of their signatures do not help either.
  quote.pck_chain_pem = machine().pck_chain_pem();
  attestation.quote = quote.encode();
  EXPECT_EQ(refusal(attestation), Code::evidence_signature);
}

TEST(Verifier, ChainsOfAnotherLengthAreRefused) {
  const auto chain = crypto::read_pem_chain(machine().pck_chain_pem()).value();
  for (const auto& pem : {chain[2].pem(), chain[1].pem() + chain[2].pem(),
                          chain[0].pem() + chain[1].pem() + chain[1].pem() + chain[2].pem(),
                          chain[0].pem() + chain[2].pem() + chain[2].pem()}) {
    EXPECT_EQ(refusal(with_quote([&](Quote& quote) { quote.pck_chain_pem = pem; })),
              Code::evidence_signature);
  }
  EXPECT_EQ(refusal(with_quote([](Quote& quote) { quote.pck_chain_pem = "junk"; })), Code::evidence_format);
  EXPECT_EQ(refusal(with_quote([](Quote& quote) { quote.pck_chain_pem.clear(); })), Code::evidence_format);
}

TEST(Verifier, ExpiredChainsAreRefused) {
  const auto bytes = good().encode();
  EXPECT_FALSE(attest::verify(bytes, wanted(), anchors(), 1'500'000'000));  // before 2020
  EXPECT_FALSE(attest::verify(bytes, wanted(), anchors(), 4'200'000'000));  // behind 2100
}

// One bit at a time in everything that is signed or signs.
TEST(Verifier, TheWholeSignedRegionMatters) {
  const auto attestation = good();
  for (std::size_t at = 0; at < 632; at += 3) {
    auto bad = attestation;
    bad.quote[at] ^= static_cast<std::uint8_t>(1U << (at % 8));
    // The security versions of header bytes 8 to 11 are read by nobody, but signed like the rest.
    ASSERT_TRUE(refusal(bad)) << at;
  }
}

TEST(Verifier, SignaturesKeysAndBindingsMatter) {
  const auto attestation = good();
  const std::pair<std::size_t, std::size_t> parts[] = {
      {636, 64},
      {700, 64},
      {770, 384},
      {1154, 64},
      {1220, 32}};  // signature, key, QE report, its signature, auth
  for (const auto& [begin, size] : parts) {
    for (std::size_t at = begin; at < begin + size; at += 3) {
      auto bad = attestation;
      bad.quote[at] ^= static_cast<std::uint8_t>(1U << (at % 8));
      ASSERT_EQ(refusal(bad), Code::evidence_signature) << at;
    }
  }
}

TEST(Verifier, EveryCertificateOfTheChainMatters) {
  const auto chain = crypto::read_pem_chain(machine().pck_chain_pem()).value();
  for (std::size_t which = 0; which < 2; ++which) {
    for (std::size_t back = 1; back < 70; back += 4) {
      Bytes der = chain[which].der();
      der[der.size() - back] ^= 0x04;
      const auto changed = crypto::Certificate::from_der(der);
      if (!changed) {
        continue;
      }
      const auto& leaf = which == 0 ? *changed : chain[0];
      const auto& ca = which == 1 ? *changed : chain[1];
      EXPECT_TRUE(refusal(with_quote([&](Quote& quote) {
        quote.pck_chain_pem = leaf.pem() + ca.pem() + chain[2].pem();
      }))) << which
           << " " << back;
    }
  }
}

TEST(Verifier, CutQuotesAndContainersAreRefused) {
  const auto attestation = good();
  for (std::size_t size = 0; size < attestation.quote.size(); size += 7) {
    auto bad = attestation;
    bad.quote.resize(size);
    ASSERT_EQ(refusal(bad), Code::evidence_format) << size;
  }
  const Bytes bytes = attestation.encode();
  for (std::size_t size = 0; size < bytes.size(); size += 11) {
    ASSERT_FALSE(attest::verify(base::ByteView(bytes).first(size), wanted(), anchors(), k_now)) << size;
  }
}

TEST(Verifier, ReportDataMustBeTheExpectedOne) {
  const auto bytes = good().encode();
  ReportData other = wanted();
  other[63] ^= 1;
  EXPECT_EQ(attest::verify(bytes, other, anchors(), k_now).error().code, Code::evidence_binding);
  auto lying = good();
  lying.report_data[0] ^= 1;
  EXPECT_EQ(refusal(lying), Code::evidence_binding);
}

TEST(Verifier, EventLogMustReplay) {
  auto added = good();
  added.runtime_events.push_back({"system-ready", {}});
  EXPECT_EQ(refusal(added), Code::evidence_replay);
  auto dropped = good();
  dropped.runtime_events.pop_back();
  EXPECT_EQ(refusal(dropped), Code::evidence_replay);
  auto reordered = good();
  std::swap(reordered.runtime_events[1], reordered.runtime_events[2]);
  EXPECT_EQ(refusal(reordered), Code::evidence_replay);
  auto changed = good();
  changed.runtime_events[1].payload[0] ^= 1;
  EXPECT_EQ(refusal(changed), Code::evidence_replay);
  auto renamed = good();
  renamed.runtime_events[1].event = "app_id";
  EXPECT_EQ(refusal(renamed), Code::evidence_replay);
  // The other copy of the log may be stripped, but must not tell another story.
  auto contradictory = good();
  contradictory.event_log[1].event_payload[0] ^= 1;
  EXPECT_EQ(refusal(contradictory), Code::evidence_replay);
  EXPECT_EQ(refusal(good().stripped()), std::nullopt);
  // A digest that lies is not even looked at.
  auto lying = good();
  lying.event_log[1].digest.assign(48, 0);
  EXPECT_EQ(refusal(lying), std::nullopt);
}

TEST(Verifier, SignedButAmbiguousIdentitiesAreRefused) {
  auto events = launch_events();
  events.insert(events.begin() + 2, {"app-id", Bytes(20, 0x44)});
  EXPECT_EQ(refusal(machine().attest(k_vm_config, events, wanted()).value()), Code::evidence_replay);
}

TEST(Verifier, EveryReservedAttributeBitIsRefused) {
  for (int bit = 0; bit < 64; ++bit) {
    const std::uint64_t mask = 1ULL << bit;
    const auto result = refusal(with_report([&](attest::TdReport& report) { report.td_attributes ^= mask; }));
    const bool harmless = bit == 30 || bit == 31 || bit == 63;  // PKS, KL, PERFMON
    EXPECT_EQ(result, harmless ? std::nullopt : std::optional(Code::attest)) << bit;
  }
  EXPECT_EQ(refusal(with_report([](attest::TdReport& report) { report.mr_signer_seam[5] = 1; })),
            Code::attest);
  EXPECT_EQ(refusal(with_report([](attest::TdReport& report) { report.seam_attributes = 1; })), Code::attest);
}

TEST(Verifier, MeasurementsMustBeThoseOfTheNamedImage) {
  // Another image in the unsigned config.
  auto other_image = good();
  other_image.config = R"({"os_image_hash":")" + std::string(64, 'b') + R"("})";
  EXPECT_EQ(refusal(other_image), Code::evidence_binding);
  auto none = good();
  none.config.clear();
  EXPECT_EQ(refusal(none), Code::evidence_format);
  EXPECT_EQ(refusal(with_report([](attest::TdReport& report) { report.mrtd[0] ^= 1; })),
            Code::evidence_binding);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(refusal(with_report([&](attest::TdReport& report) { report.rtmr[i][47] ^= 1; })),
              Code::evidence_binding)
        << i;
  }
}

TEST(Verifier, ConfigNestedInSysConfigIsUnderstood) {
  auto nested = good();
  nested.config = nlohmann::json{{"kms_urls", nlohmann::json::array()}, {"vm_config", k_vm_config}}.dump();
  EXPECT_EQ(refusal(nested), std::nullopt);
}

TEST(Verifier, AnotherVmConfigIsCheckedInPlaceOfTheEmbeddedOne) {
  const auto evidence = attest::verify_evidence(good().encode(), wanted(), anchors(), k_now).value();
  EXPECT_TRUE(attest::identify(evidence, k_vm_config, MrMode::boot_time));
  const std::string theirs = R"({"os_image_hash":")" + std::string(64, 'b') + R"("})";
  EXPECT_EQ(attest::identify(evidence, theirs, MrMode::boot_time).error().code, Code::evidence_binding);
  EXPECT_FALSE(attest::identify(evidence, "{}", MrMode::boot_time));
  EXPECT_FALSE(attest::identify(evidence, "junk", MrMode::boot_time));
}

TEST(Verifier, SeedMustHave32Bytes) {
  EXPECT_FALSE(attest::SimulatedPlatform::from_seed(Bytes(31, 1)));
  EXPECT_FALSE(attest::SimulatedPlatform::from_seed({}));
  EXPECT_FALSE(machine().attest("{}", launch_events(), wanted()));
}

// Real quotes: their signatures hold up to Intel's root, and yet no verdict comes without collateral.
TEST(Verifier, RecordedQuotesVerifyToIntelsRootButGetNoVerdict) {
  REQUIRE_FIXTURE(asset, "tdx/ra-tls-asset.quote");
  REQUIRE_FIXTURE(report_text, "tdx/quote-report.json");
  REQUIRE_FIXTURE(lite_text, "tdx/tdx-lite-getquote.json");
  REQUIRE_FIXTURE(simulator, "simulator/attestation.bin");
  const std::tuple<Bytes, const char*> quotes[] = {
      {base::to_bytes(std::string_view(asset)), "de5d028ab970ae67f36c3da32d5ee27e"},
      {hex(nlohmann::json::parse(report_text)["quote"]), "897d3eb76ea887b783f9ad3d0771034b"},
      {hex(nlohmann::json::parse(lite_text)["quote"]), "40deaac75f87cf05e92fbf18224aa576"},
      {Attestation::decode(base::as_bytes(simulator))->quote, "80d4a149124353c7a2bb76551603f31b"}};
  for (const auto& [bytes, ppid] : quotes) {
    const auto quote = Quote::parse(bytes).value();
    const auto chain = crypto::read_pem_chain(quote.pck_chain_pem).value();
    ASSERT_TRUE(attest::is_intel_root(chain.back()));
    const auto verified = attest::verify_quote_signatures(quote, chain.back(), k_now);
    ASSERT_TRUE(verified) << verified.error().what();
    EXPECT_EQ(base::to_hex(*verified), ppid);
    EXPECT_TRUE(attest::check_td_attributes(quote.report));
    Quote bad = quote;
    bad.signed_region[200] ^= 1;
    EXPECT_FALSE(attest::verify_quote_signatures(bad, chain.back(), k_now));

    Attestation attestation;
    attestation.quote = bytes;
    attestation.report_data = quote.report.report_data;
    const auto verdict = attest::verify(attestation.encode(), quote.report.report_data, anchors(), k_now);
    ASSERT_FALSE(verdict);
    EXPECT_EQ(verdict.error().code, Code::evidence_untrusted);
    EXPECT_NE(verdict.error().what().find("DCAP collateral"), std::string::npos);
  }
}
