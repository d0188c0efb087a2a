#include "app/allowlist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace dstack;
using app::parse_allowlist;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

TEST(Allowlist, ReadsEveryKey) {
  auto list = parse_allowlist(R"({
    "osImages": ["0xAB"], "allowAnyOsImage": true, "gatewayAppId": "0xGw",
    "kms": {"mrAggregated": ["01"], "devices": ["02"], "allowAnyDevice": true, "note": 1},
    "apps": {"0xAA": {"composeHashes": ["CC"], "devices": ["dd"], "allowAnyDevice": true, "note": null}},
    "kmsContractAddr": "0x1", "appImplementation": "0x2", "chainId": 7, "note": [1, 2]})");
  ASSERT_TRUE(list) << list.error().what();
  EXPECT_THAT(list->os_images, UnorderedElementsAre("ab"));
  EXPECT_TRUE(list->allow_any_os_image);
  EXPECT_EQ(list->gateway_app_id, "0xGw");
  EXPECT_THAT(list->kms_mr_aggregated, UnorderedElementsAre("01"));
  EXPECT_THAT(list->kms_devices, UnorderedElementsAre("02"));
  EXPECT_TRUE(list->kms_allow_any_device);
  EXPECT_THAT(list->apps.at("aa").compose_hashes, UnorderedElementsAre("cc"));
  EXPECT_THAT(list->apps.at("aa").devices, UnorderedElementsAre("dd"));
  EXPECT_TRUE(list->apps.at("aa").allow_any_device);
  EXPECT_FALSE(list->strict);
  EXPECT_EQ(list->chain_id, 7U);
}

TEST(Allowlist, EverythingIsOptional) {
  auto list = parse_allowlist("{}");
  ASSERT_TRUE(list);
  EXPECT_TRUE(list->os_images.empty());
  EXPECT_FALSE(list->allow_any_os_image);
  EXPECT_TRUE(list->apps.empty());
}

TEST(Allowlist, StrictKeysChooseTheStrictProfile) {
  auto list = parse_allowlist(R"({"allowedTcbStatuses":["OutOfDate"]})");
  ASSERT_TRUE(list);
  EXPECT_TRUE(list->strict);
  EXPECT_THAT(list->allowed_tcb_statuses, UnorderedElementsAre("OutOfDate"));
  list = parse_allowlist(R"({"allowedAdvisoryIds":[]})");
  ASSERT_TRUE(list);
  EXPECT_TRUE(list->strict);
  EXPECT_THAT(list->allowed_tcb_statuses, UnorderedElementsAre("UpToDate"));
}

TEST(Allowlist, TheWholeFileIsRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "JSON"},
      {"[]", "object"},
      {"{", "JSON"},
      {R"({"apps":{}}x)", "JSON"},
      {R"({"osImages":null})", "osImages"},
      {R"({"osImages":"aa"})", "osImages"},
      {R"({"osImages":[1]})", "osImages"},
      {R"({"osImages":[""]})", "blank"},
      {R"({"osImages":["aa","0x"]})", "blank"},
      {R"({"osImages":[" 0X "]})", "blank"},
      {R"({"allowAnyOsImage":1})", "allowAnyOsImage"},
      {R"({"allowAnyOsImage":"true"})", "allowAnyOsImage"},
      {R"({"gatewayAppId":null})", "gatewayAppId"},
      {R"({"kms":[]})", "kms"},
      {R"({"kms":{"mrAggregated":null}})", "mrAggregated"},
      {R"({"kms":{"mrAggregated":["0x"]}})", "blank"},
      {R"({"kms":{"devices":[""]}})", "blank"},
      {R"({"kms":{"allowAnyDevice":"yes"}})", "allowAnyDevice"},
      {R"({"apps":[]})", "apps"},
      {R"({"apps":{"":{}}})", "blank"},
      {R"({"apps":{"0x":{}}})", "blank"},
      {R"({"apps":{"aa":[]}})", "apps.aa"},
      {R"({"apps":{"aa":{"composeHashes":[""]}}})", "blank"},
      {R"({"apps":{"aa":{"composeHashes":{}}}})", "composeHashes"},
      {R"({"apps":{"aa":{"devices":["0x"]}}})", "blank"},
      {R"({"apps":{"aa":{"allowAnyDevice":null}}})", "allowAnyDevice"},
      {R"({"apps":{"aa":{},"aa":{}}})", "twice"},
      {R"({"apps":{"0xApp1":{},"app1":{}}})", "same app id"},
      {R"({"apps":{},"apps":{}})", "twice"},
      {R"({"allowedTcbStatuses":"UpToDate"})", "allowedTcbStatuses"},
      {R"({"allowedAdvisoryIds":[null]})", "allowedAdvisoryIds"},
      {R"({"chainId":-1})", "chainId"},
  };
  for (const auto& [text, mentions] : cases) {
    auto list = parse_allowlist(text);
    ASSERT_FALSE(list) << text;
    EXPECT_EQ(list.error().code, base::Code::bad_allowlist) << text;
    EXPECT_THAT(list.error().what(), HasSubstr(mentions)) << text;
  }
}

TEST(Allowlist, EachOfManyAppsIsRead) {
  std::string text = R"({"apps":{)";
  for (int i = 0; i < 20'000; ++i) {
    text += (i == 0 ? "" : ",") + ("\"" + std::to_string(100'000 + i)) + R"(":{"composeHashes":["aa"]})";
  }
  auto list = parse_allowlist(text + "}}");
  ASSERT_TRUE(list) << list.error().what();
  EXPECT_EQ(list->apps.size(), 20'000U);
}
