#include "host/doctor.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <regex>

#include "host/render.h"
#include "unit/host/doctor_host.h"

namespace dstack::host {
namespace {

using enum Verdict;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A check that is renamed or dropped breaks scripts and --ignore-preflight-errors.
TEST(DoctorTable, NamesAreStable) {
  std::vector<std::string> preflight;
  std::vector<std::string> later;
  for (const auto& check : all_checks()) {
    EXPECT_TRUE(std::regex_match(check.name, std::regex("[a-z0-9]+(-[a-z0-9]+)*"))) << check.name;
    EXPECT_NE(std::string(check.about), "");
    (check.preflight ? preflight : later).emplace_back(check.name);
  }
  EXPECT_THAT(preflight,
              ElementsAre("root", "platform", "tdx-cpu", "tdx-kvm", "sgx-devices", "quote-service", "snp-cpu",
                          "snp-kvm", "snp-device", "kvm", "vhost-vsock", "qemu", "tools", "memory", "disk",
                          "directories", "cgroup", "service-manager", "clock", "state-file", "programs",
                          "ports", "port-policy", "cid-window", "host-api-port", "image", "kms-image"));
  EXPECT_THAT(later, ElementsAre("journal", "version", "image-pin", "simulated-tee", "token", "allow-list",
                                 "auth-service", "vmm-service", "vmm-api", "kms"));
}

TEST(DoctorTable, RunsAllInOrder) {
  DoctorHost host;
  host.install();
  host.facts.state->platform = "tdx";  // no simulated root to read
  DoctorHost::write_file(host.facts.layout.kms_ca(), "root");
  const auto everything = run_checks({host.probe, host.options, host.facts}, CheckScope::everything);
  ASSERT_EQ(everything.size(), all_checks().size());
  for (std::size_t i = 0; i < everything.size(); ++i) {
    EXPECT_EQ(everything[i].name, all_checks()[i].name);
    EXPECT_NE(everything[i].finding.verdict, failed)
        << everything[i].name << ": " << everything[i].finding.evidence;
    EXPECT_FALSE(everything[i].finding.evidence.empty()) << everything[i].name;
  }
  EXPECT_EQ(worst_of(everything), ok);
  for (const auto& result : run_checks({host.probe, host.options, host.facts}, CheckScope::preflight)) {
    EXPECT_NE(result.name, "kms");
    EXPECT_NE(result.name, "journal");
  }
}

TEST(DoctorTable, Worst) {
  EXPECT_EQ(worst_of({}), ok);
  EXPECT_EQ(worst_of({{"a", {ok, "", ""}}, {"b", {skipped, "", ""}}}), ok);
  EXPECT_EQ(worst_of({{"a", {warning, "", ""}}, {"b", {ok, "", ""}}}), warning);
  EXPECT_EQ(worst_of({{"a", {warning, "", ""}}, {"b", {failed, "", ""}}, {"c", {warning, "", ""}}}), failed);
}

TEST(DoctorTable, Ignore) {
  const auto some = parse_ignored_checks({"memory, disk", "kvm"});
  ASSERT_TRUE(some) << some.error().what();
  EXPECT_EQ(*some, (std::set<std::string>{"memory", "disk", "kvm"}));
  EXPECT_TRUE(parse_ignored_checks({})->empty());
  const auto all = parse_ignored_checks({"all"});
  ASSERT_TRUE(all);
  EXPECT_TRUE(all->contains("ports"));
  EXPECT_FALSE(all->contains("root"));
  EXPECT_FALSE(all->contains("kms"));
  for (const char* unknown : {"nonsense", "", "memory,,disk", "kms", "Memory"}) {
    const auto refused = parse_ignored_checks({unknown});
    ASSERT_FALSE(refused) << unknown;
    EXPECT_EQ(refused.error().code, base::Code::usage);
    EXPECT_THAT(refused.error().fix, HasSubstr("memory"));
    EXPECT_THAT(refused.error().fix, Not(HasSubstr("root")));
  }
  const auto needed = parse_ignored_checks({"root"});
  ASSERT_FALSE(needed);
  EXPECT_THAT(needed.error().message, HasSubstr("cannot be ignored"));
}

TEST(DoctorTable, IgnoredFailuresAreWarningsThatStay) {
  std::vector<CheckResult> results = {{"memory", {failed, "100 MiB", "buy some"}},
                                      {"disk", {failed, "full", "x"}}};
  ignore_failures(results, {"memory", "kvm"});
  EXPECT_EQ(results[0].finding.verdict, warning);
  EXPECT_EQ(results[0].finding.evidence, "100 MiB (ignored as asked)");
  EXPECT_EQ(results[1].finding.verdict, failed);
  const auto left = require_no_failure(results);
  ASSERT_FALSE(left);
  EXPECT_THAT(left.error().message, HasSubstr("disk"));
  EXPECT_THAT(left.error().message, Not(HasSubstr("memory")));
  ignore_failures(results, {"disk"});
  EXPECT_TRUE(require_no_failure(results));
}

TEST(DoctorTable, OneFailureKeepsItsOwnError) {
  const auto one = require_no_failure({{"root", {failed, "no root", "use sudo", base::Code::not_root}}});
  ASSERT_FALSE(one);
  EXPECT_EQ(one.error().code, base::Code::not_root);
  EXPECT_EQ(one.error().what(), "preflight check root failed: no root");
  EXPECT_EQ(one.error().fix, "use sudo");
  EXPECT_EQ(require_no_failure({{"root", {failed, "no root", "use sudo"}}}, true).error().what(),
            "preflight check root failed");
  const auto two = require_no_failure(
      {{"a", {failed, "this", "x"}}, {"b", {warning, "", ""}}, {"c", {failed, "that", "y"}}});
  ASSERT_FALSE(two);
  EXPECT_EQ(two.error().code, base::Code::preflight);
  EXPECT_EQ(two.error().what(), "2 preflight checks failed: a: this; c: that");
  EXPECT_FALSE(two.error().fix.empty());
  const auto shown = require_no_failure({{"a", {failed, "this", "x"}}, {"c", {failed, "that", "y"}}}, true);
  EXPECT_EQ(shown.error().what(), "2 preflight checks failed: a, c");
}

TEST(DoctorTable, Text) {
  EXPECT_EQ(checks_as_text({{"qemu", {ok, "QEMU 10", ""}},
                            {"tdx-cpu", {skipped, "the platform is simulated", ""}},
                            {"memory", {failed, "too\nlittle", "buy some"}},
                            {"snp-cpu", {skipped, "the platform is simulated", ""}},
                            {"token", {skipped, "needs root", ""}},
                            {"kvm", {warning, "slow", "load it"}}}),
            "[ok]      qemu    QEMU 10\n"
            "[failed]  memory  too\\x0alittle\n"
            "                  fix: buy some\n"
            "[warning] kvm     slow\n"
            "                  fix: load it\n"
            "[skipped] the platform is simulated: tdx-cpu, snp-cpu\n"
            "[skipped] needs root: token\n");
}

TEST(DoctorTable, Json) {
  const auto json = nlohmann::json::parse(checks_as_json({{"kvm", {warning, "slow", "load it"}}}));
  EXPECT_EQ(json, nlohmann::json::parse(
                      R"([{"name":"kvm","verdict":"warning","evidence":"slow","fix":"load it"}])"));
}

TEST(DoctorTable, OptionsOfAnInstallation) {
  DoctorHost host;
  EXPECT_FALSE(options_of_installation(host.facts, {}).no_kms);
  host.install();
  EXPECT_FALSE(options_of_installation(host.facts, {}).no_kms);
  EXPECT_FALSE(options_of_installation(host.facts, {}).allow_unpinned_image);
  host.facts.state->kms_port = 0;
  host.facts.state->os_image_hash.clear();
  EXPECT_TRUE(options_of_installation(host.facts, {}).no_kms);
  EXPECT_TRUE(options_of_installation(host.facts, {}).allow_unpinned_image);
}

// Whatever port is picked for the KMS lies inside the policy that install renders for the VMM.
TEST(DoctorTable, PickedPortsAreInsideTheRenderedPolicy) {
  DoctorHost host;
  VmmConfigValues values;
  values.layout = host.facts.layout;
  const auto rendered = render_vmm_toml(values);
  std::smatch range;
  ASSERT_TRUE(std::regex_search(rendered, range, std::regex("from = (\\d+), to = (\\d+)")));
  const auto last = std::stoul(range[2]);
  EXPECT_EQ(std::stoul(range[1]), k_first_host_port);
  EXPECT_EQ(last, k_last_host_port);
  for (std::uint16_t port = k_first_kms_port; port < last; ++port) {
    host.busy.insert(port);
  }
  EXPECT_EQ(plan_ports({}, host.facts)->kms, last);
  host.busy.insert(static_cast<std::uint16_t>(last));
  EXPECT_FALSE(plan_ports({}, host.facts)) << "none is better than one that the VMM refuses";
}

TEST(DoctorTable, Documentation) {
  const std::filesystem::path path = std::filesystem::path(DSTACK_SOURCE_DIR) / "docs/doctor.md";
  const std::string start = "<!-- checks -->\n";
  const std::string stop = "<!-- end of checks -->\n";
  auto text = base::read_file(path);
  ASSERT_TRUE(text) << text.error().what();
  const auto from = text->find(start);
  const auto to = text->find(stop);
  ASSERT_NE(from, std::string::npos);
  ASSERT_NE(to, std::string::npos);
  const auto wanted = text->substr(0, from) + start + checks_as_markdown() + text->substr(to);
  if (std::getenv("DSTACK_WRITE_DOCS") != nullptr) {
    ASSERT_TRUE(base::write_file_atomic(path, wanted));
    return;
  }
  EXPECT_EQ(*text, wanted) << "run ./dev docs";
}

}  // namespace
}  // namespace dstack::host
