#include "base/kernel_cmdline.h"

#include <gtest/gtest.h>

namespace dstack::base {
namespace {

TEST(KernelCmdline, FindsValues) {
  constexpr const char* k_line = "console=ttyS0 quiet dstack.rootfs_hash=ab dstack.rootfs_size=4096\n";
  EXPECT_EQ(cmdline_value(k_line, "dstack.rootfs_hash"), "ab");
  EXPECT_EQ(cmdline_value(k_line, "dstack.rootfs_size"), "4096");
  EXPECT_EQ(cmdline_value(k_line, "quiet"), "");
  EXPECT_FALSE(cmdline_value(k_line, "rootfs_hash").has_value());
  EXPECT_FALSE(cmdline_value(k_line, "dstack").has_value());
}

TEST(KernelCmdline, TheLastOneWins) {
  EXPECT_EQ(cmdline_value("a=1 a=2", "a"), "2");
}

TEST(KernelCmdline, UnderstandsQuotes) {
  EXPECT_EQ(cmdline_value("x=\"a b=c\" b=d", "x"), "a b=c");
  EXPECT_EQ(cmdline_value("x=\"a b=c\" b=d", "b"), "d");
  EXPECT_EQ(cmdline_value("\"y=1 2\"", "y"), "1 2");
}

TEST(KernelCmdline, TakesAnything) {
  EXPECT_FALSE(cmdline_value("", "a").has_value());
  EXPECT_FALSE(cmdline_value("   ", "a").has_value());
  EXPECT_EQ(cmdline_value("a=", "a"), "");
  EXPECT_EQ(cmdline_value("a=\"", "a"), "");
  EXPECT_FALSE(cmdline_value("= =", "a").has_value());
}

}  // namespace
}  // namespace dstack::base
