#include "auth/decision_log.h"

#include <gmock/gmock.h>

#include <vector>

namespace dstack::auth {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

app::BootInfo some_boot() {
  app::BootInfo boot;
  boot.app_id = "aa";
  boot.compose_hash = "bb";
  boot.os_image_hash = "cc";
  boot.device_id = "dd";
  boot.key_provider_info = "secretish";
  return boot;
}

TEST(DecisionLog, LineNamesWhatDecided) {
  EXPECT_EQ(decision_line("app", some_boot(), {false, "compose hash not allowed", ""}, 12us),
            "decision=deny target=app app=aa compose=bb image=cc mr=- device=dd instance=- "
            "reason=\"compose hash not allowed\" us=12");
}

TEST(DecisionLog, InputCannotForgeKeysOrLines) {
  auto boot = some_boot();
  boot.app_id = "x decision=allow\n\"" + std::string(10'000, 'a');
  const auto line = decision_line("app", boot, {false, "bad \"quote\"", ""}, 1us);
  EXPECT_THAT(line, HasSubstr("app=x?decision?allow??aaa"));
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_THAT(line, HasSubstr("reason=\"bad 'quote'\""));
  EXPECT_LT(line.size(), 400u);
  EXPECT_THAT(line, Not(HasSubstr("secretish")));
}

TEST(DecisionLog, AFloodIsCutAndCounted) {
  std::vector<std::string> lines;
  std::chrono::steady_clock::time_point now{};
  DecisionLog log([&](std::string_view line) { lines.emplace_back(line); }, [&] { return now; });
  for (int i = 0; i < 10'000; ++i) {
    log.write("app", some_boot(), {true, "ok", ""}, 1us);
  }
  EXPECT_EQ(lines.size(), 100u);
  EXPECT_EQ(log.suppressed(), 9'900u);
  now += 1s;
  for (int i = 0; i < 100; ++i) {
    log.write("app", some_boot(), {true, "ok", ""}, 1us);
  }
  EXPECT_EQ(lines.size(), 105u);
  EXPECT_THAT(lines[100], HasSubstr("suppressed=9900"));
  EXPECT_THAT(lines[101], Not(HasSubstr("suppressed")));
}

TEST(DecisionLog, AFloodOfDeniesHidesNoAllow) {
  std::vector<std::string> lines;
  std::chrono::steady_clock::time_point now{};
  DecisionLog log([&](std::string_view line) { lines.emplace_back(line); }, [&] { return now; });
  const auto write = [&](bool allowed, int times) {
    for (int i = 0; i < times; ++i) {
      log.write("app", some_boot(), {allowed, allowed ? "ok" : "app not registered", ""}, 1us);
    }
  };
  write(false, 1000);
  EXPECT_EQ(lines.size(), 100u);
  write(true, 1);
  ASSERT_EQ(lines.size(), 101u);
  EXPECT_THAT(lines.back(), HasSubstr("decision=allow"));
  EXPECT_THAT(lines.back(), Not(HasSubstr("suppressed"))) << "no allow was left out";
  now += 1s;
  write(false, 1);
  EXPECT_THAT(lines.back(), HasSubstr("decision=deny"));
  EXPECT_THAT(lines.back(), HasSubstr("suppressed=900"));
  EXPECT_EQ(log.suppressed(), 900u);
  // And the other way round.
  write(true, 1000);
  const auto before = lines.size();
  write(false, 1);
  EXPECT_EQ(lines.size(), before + 1);
}

}  // namespace
}  // namespace dstack::auth
