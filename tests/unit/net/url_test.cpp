#include "net/url.h"

#include <gtest/gtest.h>

using dstack::net::Url;

TEST(Url, TakesApart) {
  const auto url = Url::parse("HTTPS://host.example:8443/a%20b/c?x=1&y=%2F#part");
  ASSERT_TRUE(url) << url.error().what();
  EXPECT_TRUE(url->https);
  EXPECT_EQ(url->host, "host.example");
  EXPECT_EQ(url->port, 8443);
  EXPECT_EQ(url->path, "/a b/c");
  EXPECT_EQ(url->query, "x=1&y=%2F");
  EXPECT_EQ(url->to_string(), "https://host.example:8443/a%20b/c");
  EXPECT_EQ(Url::parse("http://h")->to_string(), "http://h/");
  EXPECT_EQ(Url::parse("http://[::1]:1/")->to_string(), "http://[::1]:1/");
}

TEST(Url, RefusesWhatIsNotTheWeb) {
  for (const char* text : {"", "h/x", "ftp://h/", "file:///etc/passwd", "http://", "http://u:p@h/",
                           "http://h/ x", "http://h/\r\nX: y", "http://h:0/", "http://h:99999/", "unix:/x"}) {
    EXPECT_FALSE(Url::parse(text)) << text;
  }
}

TEST(Url, ResolvesLocations) {
  const auto base = Url::parse("https://h:444/a/b?q");
  ASSERT_TRUE(base);
  EXPECT_EQ(base->resolve("http://o/x")->to_string(), "http://o/x");
  EXPECT_EQ(base->resolve("//o/x")->to_string(), "https://o/x");
  EXPECT_EQ(base->resolve("/x?y")->to_string(), "https://h:444/x");
  EXPECT_EQ(base->resolve("/x?y")->query, "y");
  EXPECT_EQ(base->resolve("c")->to_string(), "https://h:444/a/c");
  EXPECT_EQ(base->resolve("../c")->to_string(), "https://h:444/c");
  EXPECT_EQ(base->resolve("../../../c/./d")->to_string(), "https://h:444/c/d");
  EXPECT_EQ(base->resolve("?z")->query, "z");
  EXPECT_FALSE(base->resolve("javascript:alert(1)"));
  EXPECT_FALSE(base->resolve("file:///etc/passwd"));
}
