#include "guest/timeline.h"

#include <gtest/gtest.h>

namespace dstack::guest {
namespace {

TEST(Timeline, KeepsTheOrderOfFirstMarks) {
  Timeline timeline;
  timeline.mark("init", 800);
  timeline.mark("network", 900);
  timeline.mark("init", 850);
  EXPECT_EQ(timeline.to_json(), R"({"init":850,"network":900})");
}

TEST(Timeline, IsAnObjectWhenEmpty) {
  EXPECT_EQ(Timeline().to_json(), "{}");
}

TEST(Timeline, CountsFromTheStartOfTheKernel) {
  const auto a = milliseconds_since_boot();
  EXPECT_GT(a, 0u);
  EXPECT_LE(a, milliseconds_since_boot());
}

}  // namespace
}  // namespace dstack::guest
