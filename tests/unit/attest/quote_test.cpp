#include "attest/quote.h"

#include <gtest/gtest.h>

#include "unit/attest/fixtures.h"

using namespace dstack;
using attest::Quote;
using attest::fixtures::hex;
using base::Bytes;

namespace {

Bytes simulated_quote() {
  return attest::fixtures::platform()
      .make_quote(attest::fixtures::k_os_image_hash, attest::Register{}, attest::ReportData{})
      .value();
}

}  // namespace

TEST(Quote, RoundTrips) {
  const Bytes bytes = simulated_quote();
  const auto quote = Quote::parse(bytes).value();
  EXPECT_EQ(quote.encode(), bytes);
  EXPECT_EQ(Quote::make_signed_region(quote.report), quote.signed_region);
}

TEST(Quote, IsRefusedWhenCutAtAnyLength) {
  const Bytes bytes = simulated_quote();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const auto quote = Quote::parse(base::ByteView(bytes).first(size));
    ASSERT_FALSE(quote) << size;
    ASSERT_EQ(quote.error().code, base::Code::evidence_format) << size;
  }
}

TEST(Quote, TrailingZerosAreToleratedAndNothingElse) {
  Bytes bytes = simulated_quote();
  bytes.resize(bytes.size() + 70);
  EXPECT_TRUE(Quote::parse(bytes));
  bytes.back() = 1;
  EXPECT_FALSE(Quote::parse(bytes));
  EXPECT_FALSE(Quote::parse(Bytes(128 * 1024)));
}

TEST(Quote, HeaderAndTypesAreChecked) {
  const Bytes good = simulated_quote();
  // version, key type, TEE type, QE vendor, outer and inner certification type, QE auth size.
  for (const std::size_t at : {0, 1, 2, 3, 4, 7, 12, 27, 764, 765, 1218, 1252}) {
    Bytes bad = good;
    bad[at] ^= 0x01;
    EXPECT_FALSE(Quote::parse(bad)) << at;
  }
  // Lengths that point beyond the end, or leave a rest.
  for (const std::size_t at : {632, 635, 766, 769, 1254, 1257}) {
    for (const std::uint8_t flip : {0x01, 0x80}) {
      Bytes bad = good;
      bad[at] ^= flip;
      EXPECT_FALSE(Quote::parse(bad)) << at;
    }
  }
}

TEST(Quote, RecordedQuotesParse) {
  REQUIRE_FIXTURE(raw, "tdx/ra-tls-asset.quote");
  const auto asset = Quote::parse(base::as_bytes(raw));
  ASSERT_TRUE(asset) << asset.error().what();
  EXPECT_EQ(asset->report.td_attributes, attest::k_td_sept_ve_disable);
  REQUIRE_FIXTURE(sample, "dcap/tdx_quote");
  EXPECT_TRUE(Quote::parse(base::as_bytes(sample)));
  REQUIRE_FIXTURE(json, "tdx/quote-report.json");
  const auto report = nlohmann::json::parse(json);
  const auto quote = Quote::parse(hex(report["quote"])).value();
  EXPECT_EQ(base::to_hex(quote.report.report_data), report["report_data"].get<std::string>());
}
