#include "guest/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dstack::guest {
namespace {

constexpr std::array<std::uint8_t, 6> k_mac{0x52, 0x54, 0, 0x12, 0x34, 0x56};
constexpr std::uint32_t k_transaction = 0xdeadbeef;

base::Bytes reply(std::uint8_t type, base::Bytes more = {}) {
  auto out = dhcp_message(k_transaction, k_mac, std::nullopt);
  out.resize(240);
  out[0] = 2;
  out[16] = 10;
  out[18] = 2;
  out[19] = 15;
  out.insert(out.end(), {53, 1, type, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2});
  base::append(out, more);
  out.push_back(255);
  return out;
}

TEST(Dhcp, ReadsAnOffer) {
  const auto parsed =
      parse_dhcp_reply(reply(2, {6, 8, 10, 0, 2, 3, 1, 1, 1, 1, 54, 4, 10, 0, 2, 2, 51, 4, 0, 1, 0x51, 0x80}),
                       k_transaction, k_mac);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->type, 2);
  EXPECT_EQ(to_dotted(parsed->lease.address), "10.0.2.15");
  EXPECT_EQ(parsed->lease.prefix, 24u);
  EXPECT_EQ(to_dotted(parsed->lease.router), "10.0.2.2");
  EXPECT_EQ(to_dotted(parsed->lease.server), "10.0.2.2");
  EXPECT_EQ(parsed->lease.seconds, 86400u);
  EXPECT_THAT(parsed->lease.dns, testing::ElementsAre(0x0a000203, 0x01010101));
}

TEST(Dhcp, IgnoresAnswersToOthers) {
  EXPECT_FALSE(parse_dhcp_reply(reply(2), k_transaction + 1, k_mac).has_value());
  EXPECT_FALSE(parse_dhcp_reply(reply(2), k_transaction, {1, 2, 3, 4, 5, 6}).has_value());
  EXPECT_FALSE(
      parse_dhcp_reply(dhcp_message(k_transaction, k_mac, std::nullopt), k_transaction, k_mac).has_value());
}

TEST(Dhcp, IsTotalOnCutPackets) {
  const auto whole = reply(5, {6, 4, 10, 0, 2, 3});
  for (std::size_t size = 0; size < whole.size(); ++size) {
    (void)parse_dhcp_reply(base::ByteView(whole).first(size), k_transaction, k_mac);
  }
  auto overlong = reply(5);
  overlong.back() = 6;
  overlong.push_back(200);  // says 200 bytes follow
  EXPECT_FALSE(parse_dhcp_reply(overlong, k_transaction, k_mac).has_value());
}

TEST(Dhcp, AsksForTheOfferedAddress) {
  Lease offer;
  offer.address = 0x0a00020f;
  offer.server = 0x0a000202;
  const auto message = dhcp_message(k_transaction, k_mac, offer);
  EXPECT_GE(message.size(), 300u);
  EXPECT_EQ(base::to_hex(base::ByteView(message).subspan(240, 15)), "35010332040a00020f36040a000202");
  EXPECT_EQ(message[10], 0x80);  // answer by broadcast
}

TEST(Dhcp, HasTheUserNetworkAsFallback) {
  const auto lease = user_network_lease();
  EXPECT_EQ(to_dotted(lease.address), "10.0.2.15");
  EXPECT_EQ(to_dotted(lease.router), "10.0.2.2");
  EXPECT_EQ(to_dotted(lease.dns.at(0)), "10.0.2.3");
}

}  // namespace
}  // namespace dstack::guest
