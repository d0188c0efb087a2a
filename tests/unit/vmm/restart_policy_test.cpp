#include "vmm/restart_policy.h"

#include <gtest/gtest.h>

namespace dstack::vmm {
namespace {

using Action = RestartPolicy::Action;

AutoRestartPolicy sample() {
  AutoRestartPolicy policy;
  policy.initial_backoff = std::chrono::seconds(2);
  policy.max_backoff = std::chrono::seconds(5);
  policy.max_retries = 3;
  policy.reset_window = std::chrono::seconds(300);
  return policy;
}

// The seconds at which something happened, looking once a second at a VM that never runs.
std::vector<std::pair<int, Action>> watch(RestartPolicy& policy, int from, int to) {
  std::vector<std::pair<int, Action>> out;
  for (int second = from; second < to; ++second) {
    const auto action = policy.look(second * 1000LL, false);
    if (action != Action::none) {
      out.emplace_back(second, action);
    }
  }
  return out;
}

TEST(RestartPolicy, DelaysGrowThenItGivesUpOnce) {
  RestartPolicy policy(sample());
  // Delays 2, 4, 5, 5.
  const std::vector<std::pair<int, Action>> expected = {
      {2, Action::start}, {6, Action::start}, {11, Action::start}, {16, Action::exhausted}};
  EXPECT_EQ(watch(policy, 0, 1000), expected);
  EXPECT_EQ(policy.attempts(), 3U);
}

TEST(RestartPolicy, RunningLongEnoughStartsAnew) {
  RestartPolicy policy(sample());
  watch(policy, 0, 7);
  EXPECT_EQ(policy.attempts(), 2U);
  policy.look(10'000, true);
  policy.look(309'000, true);
  EXPECT_EQ(policy.attempts(), 2U);
  policy.look(310'000, true);
  EXPECT_EQ(policy.attempts(), 0U);
}

TEST(RestartPolicy, RunningShortlyDoesNot) {
  RestartPolicy policy(sample());
  watch(policy, 0, 7);
  policy.look(8'000, true);
  EXPECT_EQ(policy.look(9'000, false), Action::none);
  EXPECT_EQ(policy.look(11'000, false), Action::start);
  EXPECT_EQ(policy.attempts(), 3U);
}

TEST(RestartPolicy, UserActionsResetAndDisabledDoesNothing) {
  RestartPolicy policy(sample());
  watch(policy, 0, 100);
  policy.reset();
  EXPECT_EQ(watch(policy, 100, 103).size(), 1U);
  auto off = sample();
  off.enabled = false;
  RestartPolicy disabled(off);
  EXPECT_TRUE(watch(disabled, 0, 100).empty());
}

TEST(RestartPolicy, HugeRetryCountsDoNotOverflow) {
  auto config = sample();
  config.max_retries = 1'000'000;
  config.max_backoff = std::chrono::seconds(300);
  RestartPolicy policy(config);
  const auto seen = watch(policy, 0, 100'000);
  EXPECT_GT(seen.size(), 300U);
  EXPECT_EQ(seen.back().second, Action::start);
}

}  // namespace
}  // namespace dstack::vmm
