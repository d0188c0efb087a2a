#include "net/http.h"

#include <gmock/gmock.h>

namespace dstack::net {
namespace {

TEST(Endpoint, ParsesAndPrints) {
  const auto http = Endpoint::parse("http://127.0.0.1:9080/prefix/");
  ASSERT_TRUE(http);
  EXPECT_EQ(http->kind, Endpoint::Kind::tcp);
  EXPECT_EQ(http->host, "127.0.0.1");
  EXPECT_EQ(http->port, 9080);
  EXPECT_EQ(http->base_path, "/prefix");
  EXPECT_EQ(http->to_string(), "http://127.0.0.1:9080/prefix");
  EXPECT_EQ(Endpoint::parse("https://kms.example")->port, 443);
  EXPECT_EQ(Endpoint::parse("https://kms.example")->kind, Endpoint::Kind::tls);
  EXPECT_EQ(Endpoint::parse("http://h/")->port, 80);
  EXPECT_EQ(Endpoint::parse("http://h///")->base_path, "");
  const auto v6 = Endpoint::parse("https://[::1]:8000");
  ASSERT_TRUE(v6);
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->to_string(), "https://[::1]:8000");
  const auto unix_socket = Endpoint::parse("unix:/run/dstack.sock");
  ASSERT_TRUE(unix_socket);
  EXPECT_EQ(unix_socket->kind, Endpoint::Kind::unix_socket);
  EXPECT_EQ(unix_socket->path, "/run/dstack.sock");
  EXPECT_EQ(unix_socket->to_string(), "unix:/run/dstack.sock");
  EXPECT_EQ(Endpoint::parse("unix:///run/x")->path, "/run/x");
}

TEST(Endpoint, RefusesTheRest) {
  for (const std::string bad : {"",
                                "host:80",
                                "ftp://h",
                                "http://",
                                "http://:80",
                                "http://h:",
                                "http://h:0",
                                "http://h:65536",
                                "http://h:+1",
                                "http://h:8o",
                                "http://::1",
                                "http://[::1",
                                "http://[::1]x",
                                "http://h?x",
                                "http://h#x",
                                "http://a b",
                                "http://h\n",
                                "unix:relative",
                                "unix:",
                                "unix:/a",
                                "http://user@h"}) {
    if (bad == "unix:/a") {
      continue;
    }
    const auto result = Endpoint::parse(bad);
    EXPECT_FALSE(result) << bad;
    if (!result) {
      EXPECT_FALSE(result.error().fix.empty()) << bad;
    }
  }
  const auto secret = Endpoint::parse("http://user:s3cret@h");
  EXPECT_THAT(secret.error().what(), testing::Not(testing::HasSubstr("s3cret")));
}

TEST(Headers, NamesIgnoreCase) {
  Headers headers;
  headers.add("Content-Type", "a");
  headers.add("content-type", "b");
  EXPECT_EQ(headers.get("CONTENT-TYPE"), "a");
  headers.set("Content-type", "c");
  EXPECT_EQ(headers.all().size(), 1u);
  EXPECT_EQ(headers.get("content-type"), "c");
  EXPECT_FALSE(headers.get("content"));
}

TEST(Query, Values) {
  Request request;
  request.query = "a=1&b&c=&d=x%20y+z&e%5B%5D=1&a=2&=v";
  EXPECT_EQ(request.query_value("a"), "1");
  EXPECT_EQ(request.query_value("b"), "");
  EXPECT_EQ(request.query_value("c"), "");
  EXPECT_EQ(request.query_value("d"), "x y z");
  EXPECT_EQ(request.query_value("e[]"), "1");
  EXPECT_FALSE(request.query_value("f"));
  request.query = "";
  EXPECT_FALSE(request.query_value(""));
}

TEST(Percent, DecodesAndEncodes) {
  EXPECT_EQ(percent_decode("a%20b%2Fc+%e4%"), "a b/c+\xe4%");
  EXPECT_EQ(percent_decode("%zz%4"), "%zz%4");
  EXPECT_EQ(percent_decode("%00").size(), 1u);
  EXPECT_EQ(percent_encode("/a b?\xff~-._"), "/a%20b%3F%FF~-._");
  std::string all;
  for (int i = 0; i < 256; ++i) {
    all += static_cast<char>(i);
  }
  EXPECT_EQ(percent_decode(percent_encode(all)), all);
}

}  // namespace
}  // namespace dstack::net
