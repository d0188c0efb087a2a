// The rules of the key-release decision. Mutation table: each rule of decision.cpp and the case below that
// fails when the rule is removed (checked by removing them one by one).
//
//   rule removed                                            fails
//   app: no allow-list denies                               NoAllowlist
//   app: image list                                         App/other_image
//   app: empty image list denies                            App/no_images_listed
//   app: allowAnyOsImage opens an empty list                App/any_image_flag
//   app: allowAnyOsImage does not open a list               App/any_image_flag_with_list
//   app: registered                                         App/other_app
//   app: compose hash                                       App/other_compose
//   app: device list                                        App/other_device
//   app: empty device list means any                        App/no_devices_listed
//   app: allowAnyDevice                                     App/any_device
//   both: blank values match nothing                        EmptyNeverMatches
//   both: hex normalisation                                 App/spelling
//   kms: no allow-list denies                               NoAllowlist
//   kms: mrAggregated list                                  Kms/other_mr, Kms/no_mr_listed
//   kms: device list                                        Kms/other_device
//   kms: allowAnyDevice                                     Kms/any_device
//   kms: empty device list means any                        Kms/no_devices_listed
//   kms: images are not consulted                           Kms/other_image, Kms/any_device
//   both: gatewayAppId is handed on                         GatewayAppIdIsPassedOn
//   strict: TCB status                                      Strict cases 3 and 4
//   strict: advisories                                      Strict case 5
//   strict: image list, empty denies                        Strict case 6, Strict.NeedsAnImageList
//   strict: kms measurement                                 Strict cases 7 and 8
//   strict: kms device                                      Strict.KmsDevice
//   strict: app registered, hash, device                    Strict cases 11, 12, 13
//   strict: empty device list denies                        Strict.EmptyDeviceListDenies
//   strict: allowAnyDevice                                  Strict cases 9 and 14
//   strict: the first three rules hold for apps             Strict.AppsAreHeldToTcbAndImagesToo
//   strict: an allowed boot has an empty reason             Strict cases 2 and 10
//   strict: a missing field is named                        BootInfo MissingFieldsAreEmptyAndNamed
//   strict: a missing field gets no decision               BootInfo MissingFieldsAreEmptyAndNamed
//   app: the image check before the others (or moved last)  FirstMatchDecides.App
//   strict: TCB, advisories, image before the others        FirstMatchDecides.StrictApp, StrictKms
//   kms: the measurement before the device                  FirstMatchDecides.Kms
//   BootInfo that is not plain: advisoryIds are read        BootInfo WhatIsNotPlainIsReadTheSame
//   BootInfo that is not plain: a missing field is named    BootInfo WhatIsNotPlainIsReadTheSame
//   BootInfo: the size limit of the quick way               BootInfo TheLimitHoldsForPlainOnesToo
#include "app/decision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

using namespace dstack;
using app::Allowlist;
using app::BootInfo;
using testing::HasSubstr;

namespace {

BootInfo good_boot() {
  BootInfo boot;
  boot.mr_aggregated = "abc123";
  boot.os_image_hash = "1fbb";
  boot.app_id = "aa11";
  boot.compose_hash = "cc22";
  boot.instance_id = "dd33";
  boot.device_id = "ee44";
  boot.tcb_status = "Simulated";
  return boot;
}

Allowlist list_of(const std::string& json) {
  auto list = app::parse_allowlist(json);
  EXPECT_TRUE(list) << json << (list ? "" : list.error().what());
  return list ? *std::move(list) : Allowlist{};
}

struct Case {
  const char* name;
  std::string allowlist;
  std::function<void(BootInfo&)> change;
  bool allowed;
  const char* reason;
};

void PrintTo(const Case& value, std::ostream* out) {
  *out << value.name;
}

const auto k_nothing = [](BootInfo&) {};
constexpr const char* k_app = R"("apps":{"aa11":{"composeHashes":["cc22"],"devices":["ee44"]}})";

std::string app_list(const std::string& rest = R"("osImages":["1fbb"])") {
  return std::string("{") + rest + "," + k_app + "}";
}

class App : public testing::TestWithParam<Case> {};
class Kms : public testing::TestWithParam<Case> {};

const std::string k_kms = R"({"osImages":["1fbb"],"kms":{"mrAggregated":["abc123"],"devices":["ee44"]}})";

}  // namespace

TEST_P(App, Decision) {
  BootInfo boot = good_boot();
  GetParam().change(boot);
  const Allowlist list = list_of(GetParam().allowlist);
  const auto decision = app::decide_app(&list, boot);
  EXPECT_EQ(decision.allowed, GetParam().allowed);
  EXPECT_EQ(decision.reason, GetParam().reason);
}

INSTANTIATE_TEST_SUITE_P(
    Rules, App,
    testing::Values(
        Case{"listed", app_list(), k_nothing, true, "ok"},
        Case{"other_image", app_list(R"("osImages":["2fbb"])"), k_nothing, false, "os image not allowed"},
        Case{"no_images_listed", app_list(R"("osImages":[])"), k_nothing, false, "os image not allowed"},
        Case{"images_absent", app_list(R"("gatewayAppId":"")"), k_nothing, false, "os image not allowed"},
        Case{"any_image_flag", app_list(R"("allowAnyOsImage":true)"), k_nothing, true, "ok"},
        Case{"any_image_flag_off", app_list(R"("allowAnyOsImage":false)"), k_nothing, false,
             "os image not allowed"},
        Case{"any_image_flag_with_list", app_list(R"("allowAnyOsImage":true,"osImages":["2fbb"])"), k_nothing,
             false, "os image not allowed"},
        Case{"other_app", app_list(), [](BootInfo& boot) { boot.app_id = "aa12"; }, false,
             "app not registered"},
        Case{"other_compose", app_list(), [](BootInfo& boot) { boot.compose_hash = "cc23"; }, false,
             "compose hash not allowed"},
        Case{"no_compose_listed", R"({"osImages":["1fbb"],"apps":{"aa11":{}}})", k_nothing, false,
             "compose hash not allowed"},
        Case{
            "hash_of_another_app",
            R"({"osImages":["1fbb"],"apps":{"aa11":{"composeHashes":["00"]},"bb":{"composeHashes":["cc22"]}}})",
            k_nothing, false, "compose hash not allowed"},
        Case{"other_device", app_list(), [](BootInfo& boot) { boot.device_id = "ee45"; }, false,
             "device not allowed"},
        Case{"no_devices_listed", R"({"osImages":["1fbb"],"apps":{"aa11":{"composeHashes":["cc22"]}}})",
             k_nothing, true, "ok"},
        Case{
            "any_device",
            R"({"osImages":["1fbb"],"apps":{"aa11":{"composeHashes":["cc22"],"devices":["ff"],"allowAnyDevice":true}}})",
            k_nothing, true, "ok"},
        Case{"spelling",
             R"({"osImages":[" 0x1FBB "],"apps":{"0XAA11":{"composeHashes":["0xCC22"],"devices":["EE44"]}}})",
             [](BootInfo& boot) {
               boot.os_image_hash = "0x1fBB";
               boot.app_id = " aA11\n";
               boot.compose_hash = "0Xcc22";
               boot.device_id = "0xee44";
             },
             true, "ok"},
        Case{"prefix_dropped_once", app_list(), [](BootInfo& boot) { boot.app_id = "0x0xaa11"; }, false,
             "app not registered"},
        Case{"tcb_is_not_enforced", app_list(),
             [](BootInfo& boot) {
               boot.tcb_status = "Revoked";
               boot.advisory_ids = {"INTEL-SA-1"};
             },
             true, "ok"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_P(Kms, Decision) {
  BootInfo boot = good_boot();
  GetParam().change(boot);
  const Allowlist list = list_of(GetParam().allowlist);
  const auto decision = app::decide_kms(&list, boot);
  EXPECT_EQ(decision.allowed, GetParam().allowed);
  EXPECT_EQ(decision.reason, GetParam().reason);
}

INSTANTIATE_TEST_SUITE_P(
    Rules, Kms,
    testing::Values(
        Case{"listed", k_kms, k_nothing, true, "ok"},
        Case{"other_mr", k_kms, [](BootInfo& boot) { boot.mr_aggregated = "abc124"; }, false,
             "kms mrAggregated not allowed"},
        Case{"no_mr_listed", R"({"kms":{"allowAnyDevice":true}})", k_nothing, false,
             "kms mrAggregated not allowed"},
        Case{"other_device", k_kms, [](BootInfo& boot) { boot.device_id = "ee45"; }, false,
             "device not allowed"},
        Case{"no_devices_listed", R"({"kms":{"mrAggregated":["abc123"]}})", k_nothing, true, "ok"},
        Case{"any_device", R"({"kms":{"mrAggregated":["abc123"],"devices":["ff"],"allowAnyDevice":true}})",
             k_nothing, true, "ok"},
        Case{"other_image", k_kms, [](BootInfo& boot) { boot.os_image_hash = "ff"; }, true, "ok"},
        Case{"spelling", R"({"kms":{"mrAggregated":["0xABC123"]}})", k_nothing, true, "ok"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(Decision, NoAllowlist) {
  const auto app_decision = app::decide_app(nullptr, good_boot());
  EXPECT_FALSE(app_decision.allowed);
  EXPECT_EQ(app_decision.reason, "app not registered");
  EXPECT_EQ(app_decision.gateway_app_id, "");
  const auto kms_decision = app::decide_kms(nullptr, good_boot());
  EXPECT_FALSE(kms_decision.allowed);
  EXPECT_EQ(kms_decision.reason, "kms mrAggregated not allowed");
}

TEST(Decision, GatewayAppIdIsPassedOn) {
  const Allowlist list = list_of(app_list(R"("osImages":["1fbb"],"gatewayAppId":"0xGw")"));
  EXPECT_EQ(app::decide_app(&list, good_boot()).gateway_app_id, "0xGw");
  EXPECT_EQ(app::decide_kms(&list, good_boot()).gateway_app_id, "0xGw");
}

// Even an allow-list that holds blank entries, which no parsed file can, must not match a value that is
// missing.
TEST(Decision, EmptyNeverMatches) {
  for (const char* blank : {"", " ", "0x", " 0X\n"}) {
    Allowlist list = list_of(app_list());
    list.os_images.insert("");
    list.kms_mr_aggregated = {"", "abc123"};
    list.kms_devices = {""};
    auto& entry = list.apps[""];
    entry.compose_hashes = {"", "cc22"};
    entry.allow_any_device = true;
    list.apps["aa11"].compose_hashes.insert("");
    list.apps["aa11"].devices.insert("");
    const std::pair<std::string BootInfo::*, const char*> fields[] = {
        {&BootInfo::os_image_hash, "os image not allowed"},
        {&BootInfo::app_id, "app not registered"},
        {&BootInfo::compose_hash, "compose hash not allowed"},
        {&BootInfo::device_id, "device not allowed"}};
    for (const auto& [field, reason] : fields) {
      BootInfo boot = good_boot();
      boot.*field = blank;
      const auto decision = app::decide_app(&list, boot);
      EXPECT_FALSE(decision.allowed) << reason;
      EXPECT_EQ(decision.reason, reason);
    }
    BootInfo boot = good_boot();
    boot.mr_aggregated = blank;
    EXPECT_EQ(app::decide_kms(&list, boot).reason, "kms mrAggregated not allowed");
    boot = good_boot();
    boot.device_id = blank;
    EXPECT_EQ(app::decide_kms(&list, boot).reason, "device not allowed");
  }
}

// The 16 cases of spec/host.md section 3.3, without the first, which asks for GET /.
namespace {

struct StrictCase {
  int number;
  bool kms;
  std::string allowlist;
  std::function<void(BootInfo&)> change;
  bool allowed;
  const char* mentions;
};

BootInfo strict_boot() {
  BootInfo boot;
  boot.tee_variant = "dstack-tdx";
  boot.mr_aggregated = "0xabc123";
  boot.os_image_hash = "0x1fbba78a";
  boot.app_id = "0xapp123";
  boot.compose_hash = "0xcompose456";
  boot.instance_id = "0xinstance789";
  boot.device_id = "0xdevice999";
  boot.tcb_status = "UpToDate";
  return boot;
}

std::string strict_kms(const std::string& kms, const std::string& rest = {}) {
  return R"({"allowedTcbStatuses":["UpToDate"],"osImages":["0x1fbba78a"],"kms":{)" + kms + "}" + rest + "}";
}
std::string strict_app(const std::string& apps) {
  return R"({"allowedAdvisoryIds":[],"osImages":["0x1fbba78a"],"apps":{)" + apps + "}}";
}

const std::vector<StrictCase>& strict_cases() {
  const auto out_of_date = [](BootInfo& boot) { boot.tcb_status = "OutOfDate"; };
  const auto advisory = [](BootInfo& boot) { boot.advisory_ids = {"INTEL-SA-TEST"}; };
  const std::string any = R"("mrAggregated":["0xabc123"],"allowAnyDevice":true)";
  static const std::vector<StrictCase> cases = {
      {2, true, strict_kms(R"("mrAggregated":["0xabc123"],"devices":["0xdevice999"],"allowAnyDevice":false)"),
       k_nothing, true, ""},
      {3, true, strict_kms(any), out_of_date, false, "TCB status"},
      {4, true, R"({"allowedTcbStatuses":["OutOfDate"],"osImages":["0x1fbba78a"],"kms":{)" + any + "}}",
       out_of_date, true, ""},
      {5, true, strict_kms(any), advisory, false, "advisory"},
      {5, true, strict_kms(any, R"(,"allowedAdvisoryIds":["INTEL-SA-TEST"])"), advisory, true, ""},
      {6, true, R"({"allowedTcbStatuses":["UpToDate"],"osImages":["0xdifferentimage"],"kms":{)" + any + "}}",
       k_nothing, false, "OS image"},
      {7, true, strict_kms(R"("mrAggregated":["0xdifferentmr"],"allowAnyDevice":true)"), k_nothing, false,
       "MR"},
      {8, true, strict_kms(R"("mrAggregated":[],"allowAnyDevice":true)"), k_nothing, false, "MR"},
      {9, true,
       strict_kms(R"("mrAggregated":["0xabc123"],"devices":["0xotherdevice"],"allowAnyDevice":true)"),
       k_nothing, true, ""},
      {10, false, strict_app(R"("0xapp123":{"composeHashes":["0xcompose456"],"devices":["0xdevice999"]})"),
       k_nothing, true, ""},
      {11, false, strict_app(""), k_nothing, false, "not registered"},
      {12, false, strict_app(R"("0xapp123":{"composeHashes":["0xdifferenthash"],"allowAnyDevice":true})"),
       k_nothing, false, "compose hash"},
      {13, false, strict_app(R"("0xapp123":{"composeHashes":["0xcompose456"],"devices":["0xotherdevice"]})"),
       k_nothing, false, "device"},
      {14, false,
       strict_app(R"("0xapp123":{"composeHashes":["0xcompose456"],"devices":[],"allowAnyDevice":true})"),
       k_nothing, true, ""},
      {15, false, strict_app(R"("0xAPP123":{"composeHashes":["0xCOMPOSE456"],"allowAnyDevice":true})"),
       k_nothing, true, ""},
      {16, false, strict_app(R"("app123":{"composeHashes":["compose456"],"allowAnyDevice":true})"), k_nothing,
       true, ""},
  };
  return cases;
}

}  // namespace

TEST(Strict, CasesOfTheSibling) {
  for (const StrictCase& tested : strict_cases()) {
    BootInfo boot = strict_boot();
    tested.change(boot);
    const Allowlist list = list_of(tested.allowlist);
    const auto decision = tested.kms ? app::decide_kms(&list, boot) : app::decide_app(&list, boot);
    EXPECT_EQ(decision.allowed, tested.allowed) << tested.number;
    if (tested.allowed) {
      EXPECT_EQ(decision.reason, "") << tested.number;
    } else {
      EXPECT_THAT(decision.reason, HasSubstr(tested.mentions)) << tested.number;
    }
  }
}

TEST(Strict, AppsAreHeldToTcbAndImagesToo) {
  const Allowlist list =
      list_of(strict_app(R"("0xapp123":{"composeHashes":["0xcompose456"],"allowAnyDevice":true})"));
  BootInfo boot = strict_boot();
  boot.tcb_status = "OutOfDate";
  EXPECT_EQ(app::decide_app(&list, boot).reason, "TCB status is not allowed");
  boot = strict_boot();
  boot.advisory_ids = {"INTEL-SA-TEST"};
  EXPECT_EQ(app::decide_app(&list, boot).reason, "advisory ID is not allowed");
  boot = strict_boot();
  boot.os_image_hash = "0xother";
  EXPECT_EQ(app::decide_app(&list, boot).reason, "OS image is not allowed");
}

TEST(Strict, NeedsAnImageList) {
  const Allowlist list = list_of(
      R"({"allowedAdvisoryIds":[],"allowAnyOsImage":true,"apps":{"0xapp123":{"composeHashes":["0xcompose456"],"allowAnyDevice":true}}})");
  EXPECT_EQ(app::decide_app(&list, strict_boot()).reason, "OS image is not allowed");
}

TEST(Strict, KmsDevice) {
  const Allowlist list = list_of(strict_kms(R"("mrAggregated":["0xabc123"],"devices":["0xotherdevice"])"));
  EXPECT_EQ(app::decide_kms(&list, strict_boot()).reason, "KMS is not allowed to boot on this device");
}

TEST(Strict, EmptyDeviceListDenies) {
  const Allowlist apps = list_of(strict_app(R"("0xapp123":{"composeHashes":["0xcompose456"]})"));
  EXPECT_EQ(app::decide_app(&apps, strict_boot()).reason, "app is not allowed to boot on this device");
  const Allowlist kms = list_of(strict_kms(R"("mrAggregated":["0xabc123"])"));
  EXPECT_EQ(app::decide_kms(&kms, strict_boot()).reason, "KMS is not allowed to boot on this device");
}

// Everything is wrong at first and put right rule by rule: the reason is always that of the first rule that
// is still broken.
namespace {

struct Step {
  const char* reason;
  std::function<void(BootInfo&)> repair;
};

void expect_steps(const Allowlist& list, BootInfo boot, bool kms, const std::vector<Step>& steps) {
  for (const auto& [reason, repair] : steps) {
    const auto decision = kms ? app::decide_kms(&list, boot) : app::decide_app(&list, boot);
    EXPECT_FALSE(decision.allowed) << reason;
    EXPECT_EQ(decision.reason, reason);
    repair(boot);
  }
  EXPECT_TRUE((kms ? app::decide_kms(&list, boot) : app::decide_app(&list, boot)).allowed);
}

BootInfo wrong_boot() {
  BootInfo boot;
  boot.mr_aggregated = boot.os_image_hash = boot.app_id = boot.compose_hash = boot.device_id = "0bad";
  boot.tcb_status = "OutOfDate";
  boot.advisory_ids = {"INTEL-SA-TEST"};
  return boot;
}

const auto k_right_image = [](BootInfo& boot) { boot.os_image_hash = "1fbb"; };
const auto k_right_app = [](BootInfo& boot) { boot.app_id = "aa11"; };
const auto k_right_compose = [](BootInfo& boot) { boot.compose_hash = "cc22"; };
const auto k_right_device = [](BootInfo& boot) { boot.device_id = "ee44"; };
const auto k_right_mr = [](BootInfo& boot) { boot.mr_aggregated = "abc123"; };
const auto k_right_tcb = [](BootInfo& boot) { boot.tcb_status = "UpToDate"; };
const auto k_no_advisory = [](BootInfo& boot) { boot.advisory_ids.clear(); };

}  // namespace

TEST(FirstMatchDecides, App) {
  expect_steps(list_of(app_list()), wrong_boot(), false,
               {{"os image not allowed", k_right_image},
                {"app not registered", k_right_app},
                {"compose hash not allowed", k_right_compose},
                {"device not allowed", k_right_device}});
}

TEST(FirstMatchDecides, Kms) {
  expect_steps(list_of(k_kms), wrong_boot(), true,
               {{"kms mrAggregated not allowed", k_right_mr}, {"device not allowed", k_right_device}});
}

TEST(FirstMatchDecides, StrictApp) {
  expect_steps(list_of(app_list(R"("allowedAdvisoryIds":[],"osImages":["1fbb"])")), wrong_boot(), false,
               {{"TCB status is not allowed", k_right_tcb},
                {"advisory ID is not allowed", k_no_advisory},
                {"OS image is not allowed", k_right_image},
                {"app not registered", k_right_app},
                {"compose hash not allowed", k_right_compose},
                {"app is not allowed to boot on this device", k_right_device}});
}

TEST(FirstMatchDecides, StrictKms) {
  const auto list = list_of(
      R"({"allowedAdvisoryIds":[],"osImages":["1fbb"],"kms":{"mrAggregated":["abc123"],"devices":["ee44"]}})");
  expect_steps(list, wrong_boot(), true,
               {{"TCB status is not allowed", k_right_tcb},
                {"advisory ID is not allowed", k_no_advisory},
                {"OS image is not allowed", k_right_image},
                {"aggregated MR not allowed", k_right_mr},
                {"KMS is not allowed to boot on this device", k_right_device}});
}

TEST(BootInfo, ReadsTheWireNames) {
  auto boot = app::parse_boot_info(
      R"({"teeVariant":"dstack-tdx","mrAggregated":"a","osImageHash":"b","mrSystem":"c","appId":"d","composeHash":"e",
          "instanceId":"f","deviceId":"g","keyProviderInfo":"h","tcbStatus":"i","advisoryIds":["j"],"more":{"x":[1]}})");
  ASSERT_TRUE(boot) << boot.error().what();
  EXPECT_EQ(boot->tee_variant + boot->mr_aggregated + boot->os_image_hash + boot->mr_system + boot->app_id +
                boot->compose_hash + boot->instance_id + boot->device_id + boot->key_provider_info +
                boot->tcb_status,
            "dstack-tdxabcdefghi");
  EXPECT_EQ(boot->advisory_ids, std::vector<std::string>{"j"});
  EXPECT_EQ(boot->missing_field, "");
}

TEST(BootInfo, MissingFieldsAreEmptyAndNamed) {
  auto boot = app::parse_boot_info("{}");
  ASSERT_TRUE(boot);
  EXPECT_EQ(boot->app_id, "");
  EXPECT_EQ(boot->missing_field, "mrAggregated");
  Allowlist list;
  EXPECT_EQ(app::incomplete(list, *boot), "");
  list.strict = true;
  EXPECT_EQ(app::incomplete(list, *boot), "boot info: mrAggregated is missing");
  EXPECT_EQ(app::incomplete(list, strict_boot()), "");
}

// An escape anywhere takes the way through a tree, which must come to the same.
TEST(BootInfo, WhatIsNotPlainIsReadTheSame) {
  const std::string fields =
      R"("mrAggregated":"a","osImageHash":"b","appId":"c","composeHash":"d","instanceId":"e","deviceId":"f")";
  const std::string advisories = R"(,"advisoryIds":["INTEL-SA-1","INTEL-SA-2"])";
  for (const std::string extra : {"", R"(,"note":"\u0041")", R"(,"note":"ä")"}) {
    const auto boot = app::parse_boot_info("{" + fields + advisories + extra + "}");
    ASSERT_TRUE(boot) << boot.error().what();
    EXPECT_EQ(boot->advisory_ids, (std::vector<std::string>{"INTEL-SA-1", "INTEL-SA-2"})) << extra;
    EXPECT_EQ(boot->mr_aggregated + boot->app_id + boot->device_id, "acf") << extra;
    EXPECT_EQ(boot->missing_field, "") << extra;
    const auto lacking =
        app::parse_boot_info("{" + fields.substr(0, fields.rfind(',')) + advisories + extra + "}");
    ASSERT_TRUE(lacking) << lacking.error().what();
    EXPECT_EQ(lacking->missing_field, "deviceId") << extra;
  }
}

TEST(BootInfo, TheLimitHoldsForPlainOnesToo) {
  const std::string frame = R"({"appId":"a","x":""})";
  const auto of_size = [&](std::size_t size) {
    return R"({"appId":"a","x":")" + std::string(size - frame.size(), 'x') + R"("})";
  };
  EXPECT_TRUE(app::parse_boot_info(of_size(app::k_max_boot_info)));
  const auto larger = app::parse_boot_info(of_size(app::k_max_boot_info + 1));
  ASSERT_FALSE(larger);
  EXPECT_EQ(larger.error().code, base::Code::too_large);
}

TEST(BootInfo, RefusesJunk) {
  for (const char* bad : {"", "{", R"({"appId":"a","appId":"b"})", R"({"appId":"a","app\u0049d":"b"})",
                          R"({"appId":"a"} {})"}) {
    auto boot = app::parse_boot_info(bad);
    ASSERT_FALSE(boot) << bad;
    EXPECT_EQ(boot.error().code, base::Code::bad_boot_info) << bad;
  }
  for (const char* bad : {"[]", "null", "5", R"({"appId":5})", R"({"appId":null})", R"({"tcbStatus":[]})",
                          R"({"advisoryIds":"x"})", R"({"advisoryIds":[1]})"}) {
    auto boot = app::parse_boot_info(bad);
    ASSERT_FALSE(boot) << bad;
    EXPECT_EQ(boot.error().code, base::Code::boot_info_type) << bad;
  }
  EXPECT_FALSE(app::parse_boot_info(R"({"x":)" + std::string(17, '[') + std::string(17, ']') + "}"));
  EXPECT_EQ(app::parse_boot_info(std::string(app::k_max_boot_info + 1, ' ')).error().code,
            base::Code::too_large);
}
