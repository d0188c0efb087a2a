#include "net/resolve.h"

#include <gmock/gmock.h>

namespace dstack::net {
namespace {

using namespace std::chrono_literals;

TEST(Resolve, LiteralsAndLocalhostNeedNoNameServer) {
  EXPECT_EQ(resolve("127.0.0.1", 80, 1s)->front().to_string(), "127.0.0.1:80");
  EXPECT_EQ(resolve("::1", 80, 1s)->front().to_string(), "[::1]:80");
  const auto localhost = resolve("LocalHost", 1, 1s);
  ASSERT_EQ(localhost->size(), 2u);
  EXPECT_EQ(localhost->front().to_string(), "127.0.0.1:1");
}

TEST(Resolve, ParseIpTakesAddressesOnly) {
  EXPECT_TRUE(parse_ip("0.0.0.0", 0));
  for (const std::string bad : {"", "localhost", "127.1", "1.2.3.4 ", "[::1]", "::1%lo", "256.0.0.1"}) {
    EXPECT_FALSE(parse_ip(bad, 0)) << bad;
  }
}

TEST(Resolve, HostsFile) {
  const std::string hosts = "# comment\n10.0.0.1 a b.example # c\n\nbad-ip d\n::5\ta\n10.0.0.9 ab\n10.0.0.7";
  const auto a = find_in_hosts(hosts, "A", 5);
  ASSERT_EQ(a.size(), 2u);
  EXPECT_EQ(a[0].to_string(), "10.0.0.1:5");
  EXPECT_EQ(a[1].to_string(), "[::5]:5");
  EXPECT_EQ(find_in_hosts(hosts, "b.example", 1).size(), 1u);
  EXPECT_TRUE(find_in_hosts(hosts, "c", 1).empty());
  EXPECT_TRUE(find_in_hosts(hosts, "d", 1).empty());
  EXPECT_TRUE(find_in_hosts(hosts, "", 1).empty());
}

}  // namespace
}  // namespace dstack::net
