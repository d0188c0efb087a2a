#include "auth/explain.h"

#include <gmock/gmock.h>

namespace dstack::auth {
namespace {

using testing::HasSubstr;

app::Allowlist list_of(const std::string& json) {
  auto list = app::parse_allowlist(json);
  EXPECT_TRUE(list) << json;
  return *list;
}

TEST(Describe, SaysWhatIsAllowedAndWarns) {
  const auto text = describe(list_of(
      R"({"osImages":["aa"],"kms":{"mrAggregated":["bb"],"devices":["dd"]},
          "apps":{"0x02":{"composeHashes":["c1","c2"]},"01":{"composeHashes":[],"allowAnyDevice":true}}})"));
  EXPECT_THAT(text, HasSubstr("OS images: 1 allowed\n"));
  EXPECT_THAT(text, HasSubstr("KMS: 1 measurement allowed, on 1 device\n"));
  EXPECT_THAT(text, HasSubstr("apps: 2\n  01: 0 compose hashes, on any device (allowAnyDevice) - warning"));
  EXPECT_THAT(text, HasSubstr("  02: 2 compose hashes, on any device (none is listed)\n"));
  EXPECT_THAT(describe(list_of("{}")), HasSubstr("warning: osImages is empty, so every app is denied"));
  EXPECT_THAT(describe(list_of(R"({"allowAnyOsImage":true})")), HasSubstr("OS images: any"));
  EXPECT_THAT(describe(list_of(R"({"allowedTcbStatuses":["UpToDate"]})")), HasSubstr("profile: strict"));
}

TEST(Describe, ALongListIsCut) {
  std::string json = "{\"apps\":{";
  for (int i = 0; i < 200; ++i) {
    json += (i == 0 ? "\"" : ",\"") + std::to_string(1000 + i) + "\":{}";
  }
  EXPECT_THAT(describe(list_of(json + "}}")), HasSubstr("and 150 more"));
}

TEST(Explain, NamesTheRule) {
  const auto list = list_of(
      R"({"osImages":["aa"],"kms":{"mrAggregated":["ee"]},"apps":{"01":{"composeHashes":["cc"],"devices":["dd"]}}})");
  app::BootInfo boot;
  EXPECT_THAT(explain(list, boot, false), HasSubstr("osImageHash (missing) is not in osImages (1 listed)"));
  boot.os_image_hash = "0xAA";
  boot.app_id = "\x1b[31m";
  EXPECT_THAT(explain(list, boot, false), HasSubstr("appId \\x1b[31m is no key of apps (1 registered)"));
  boot.app_id = "01";
  EXPECT_THAT(explain(list, boot, false),
              HasSubstr("composeHash (missing) is not among the composeHashes of app 01"));
  boot.compose_hash = "CC";
  EXPECT_THAT(explain(list, boot, false), HasSubstr("deviceId (missing) is not among the listed devices"));
  boot.device_id = "dd";
  EXPECT_EQ(explain(list, boot, false), "app: allowed\nreason: ok\nrule: every rule is met\n");
  EXPECT_THAT(explain(list, boot, true),
              HasSubstr("mrAggregated (missing) is not in kms.mrAggregated (1 listed)"));
  EXPECT_THAT(explain(list_of("{}"), boot, false), HasSubstr("osImages is empty, which allows no image"));
}

TEST(Explain, SaysWhatTheServerRefusesBeforeAnyRule) {
  const std::string rest =
      R"("osImages":["aa"],"apps":{"01":{"composeHashes":["cc"],"allowAnyDevice":true}}})";
  const std::string fields =
      R"("tcbStatus":"UpToDate","osImageHash":"aa","appId":"01","composeHash":"cc","instanceId":"ii","deviceId":"dd")";
  const auto lacking = *app::parse_boot_info("{" + fields + "}");
  const auto whole = *app::parse_boot_info(R"({"mrAggregated":"ee",)" + fields + "}");
  const auto strict = list_of(R"({"allowedTcbStatuses":["UpToDate"],)" + rest);
  for (const bool kms : {false, true}) {
    const auto text = explain(strict, lacking, kms);
    EXPECT_THAT(text, HasSubstr(std::string(kms ? "KMS" : "app") + ": refused with HTTP 400")) << text;
    EXPECT_THAT(text, HasSubstr("boot info: mrAggregated is missing"));
    EXPECT_THAT(text, testing::Not(HasSubstr("allowed")));
  }
  EXPECT_THAT(explain(strict, whole, false), HasSubstr("app: allowed"));
  EXPECT_THAT(explain(list_of("{" + rest), lacking, false), HasSubstr("app: allowed"));
}

}  // namespace
}  // namespace dstack::auth
