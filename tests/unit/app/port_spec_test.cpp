#include "app/port_spec.h"

#include <gtest/gtest.h>

using namespace dstack;
using app::parse_port_spec;
using app::PortSpec;

TEST(PortSpec, AllForms) {
  EXPECT_EQ(parse_port_spec("80"), (PortSpec{"tcp", "127.0.0.1", 0, 80}));
  EXPECT_EQ(parse_port_spec("8080:80"), (PortSpec{"tcp", "127.0.0.1", 8080, 80}));
  EXPECT_EQ(parse_port_spec("udp:53:5353"), (PortSpec{"udp", "127.0.0.1", 53, 5353}));
  EXPECT_EQ(parse_port_spec("tcp:0.0.0.0:18080:80"), (PortSpec{"tcp", "0.0.0.0", 18080, 80}));
  EXPECT_EQ(parse_port_spec(":80"), (PortSpec{"tcp", "127.0.0.1", 0, 80}));
  EXPECT_EQ(parse_port_spec("auto:80"), (PortSpec{"tcp", "127.0.0.1", 0, 80}));
  EXPECT_EQ(parse_port_spec("0:80"), (PortSpec{"tcp", "127.0.0.1", 0, 80}));
  EXPECT_EQ(parse_port_spec("65535:65535"), (PortSpec{"tcp", "127.0.0.1", 65535, 65535}));
}

TEST(PortSpec, RefusesEverythingElse) {
  for (const char* bad : {"",
                          "0",
                          "80:",
                          "8080:0",
                          "x",
                          "8080:x",
                          "70000",
                          "70000:80",
                          "-1:80",
                          "+80",
                          " 80",
                          "80 ",
                          "8080:80:",
                          "sctp:1:80",
                          "TCP:1:80",
                          "tcp:localhost:1:80",
                          "tcp:::1:1:80",
                          "tcp::1:80",
                          "a:b:c:d:e",
                          "0x50",
                          "80.0",
                          "tcp:127.0.0.1:80"}) {
    auto spec = parse_port_spec(bad);
    EXPECT_FALSE(spec) << bad;
    if (!spec) {
      EXPECT_EQ(spec.error().code, base::Code::bad_port) << bad;
      EXPECT_FALSE(spec.error().fix.empty()) << bad;
    }
  }
  EXPECT_FALSE(parse_port_spec(std::string_view("80\0", 3)));
}

TEST(PortSpec, ControlCharactersAreEscapedInMessages) {
  EXPECT_EQ(parse_port_spec("\x1b[2J").error().message.find('\x1b'), std::string::npos);
}

TEST(PortConflicts, SamePortOnOverlappingAddresses) {
  const PortSpec a{"tcp", "127.0.0.1", 8080, 80};
  EXPECT_FALSE(app::check_port_conflicts({a, a}));
  EXPECT_FALSE(app::check_port_conflicts({a, {"tcp", "0.0.0.0", 8080, 81}}));
  EXPECT_TRUE(app::check_port_conflicts({a, {"udp", "127.0.0.1", 8080, 80}}));
  EXPECT_TRUE(app::check_port_conflicts({a, {"tcp", "127.0.0.2", 8080, 80}}));
  EXPECT_TRUE(app::check_port_conflicts({{"tcp", "127.0.0.1", 0, 80}, {"tcp", "127.0.0.1", 0, 81}}));
}
