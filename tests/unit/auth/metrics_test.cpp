#include "auth/metrics.h"

#include <gmock/gmock.h>

namespace dstack::auth {
namespace {

using testing::HasSubstr;

TEST(Metrics, CountsByTargetVerdictAndReason) {
  Metrics metrics;
  metrics.decision("app", true, "ok", 0.5);
  metrics.decision("app", true, "ok", 0.25);
  metrics.decision("kms", false, "kms mrAggregated not allowed", 0);
  metrics.refused(413);
  const auto text = metrics.text({true, 7, 3, 2});
  EXPECT_THAT(text, HasSubstr("# TYPE dstack_auth_decisions_total counter\n"));
  EXPECT_THAT(text,
              HasSubstr("dstack_auth_decisions_total{target=\"app\",verdict=\"allow\",reason=\"ok\"} 2\n"));
  EXPECT_THAT(text,
              HasSubstr("{target=\"kms\",verdict=\"deny\",reason=\"kms mrAggregated not allowed\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("dstack_auth_decision_seconds_sum 0.750000\n"));
  EXPECT_THAT(text, HasSubstr("dstack_auth_decision_seconds_count 3\n"));
  EXPECT_THAT(text, HasSubstr("dstack_auth_refused_requests_total{status=\"413\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("dstack_auth_allowlist_usable 1\n"));
  EXPECT_THAT(text, HasSubstr("dstack_auth_allowlist_apps 7\n"));
  EXPECT_THAT(text, HasSubstr("dstack_auth_allowlist_loads_total 3\n"));
  EXPECT_THAT(text, HasSubstr("dstack_auth_suppressed_log_lines_total 2\n"));
}

TEST(Metrics, LabelsAreEscaped) {
  Metrics metrics;
  metrics.decision("app", false, "a\"b\\c\nd", 0);
  EXPECT_THAT(metrics.text({}), HasSubstr("reason=\"a\\\"b\\\\c\\nd\"} 1\n"));
}

}  // namespace
}  // namespace dstack::auth
