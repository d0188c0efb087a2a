#include "host/install_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using testing::AllOf;
using testing::HasSubstr;

PortTest busy(std::set<std::uint16_t> ports) {
  return [ports = std::move(ports)](const std::string&, std::uint16_t port) -> base::Result<bool> {
    return !ports.contains(port);
  };
}

// A host on which everything is fine.
InstallFacts good() {
  InstallFacts facts;
  facts.root = true;
  facts.layout = *Layout::make("/opt/d");
  facts.instance = "d-1";
  facts.platform = PlatformKind::simulated;
  facts.image = Image{};
  facts.image->name = "dstack-0.1.0";
  facts.image->os_image_hash = std::string(64, 'a');
  facts.kms_image_in_volume = true;
  facts.kms_volumes = {{"dstack-kms.img", std::string(64, 'b'), "/run/dstack/image-stores/dstack-kms"}};
  facts.auth_program = "/b/dstack-auth";
  facts.vmm_program = "/b/dstack-vmm";
  facts.program_directory = "/b";
  facts.qemu = "/usr/bin/qemu-system-x86_64";
  facts.memory_mib = 8192;
  facts.disk_mib = 50'000;
  facts.port_is_free = busy({});
  return facts;
}

InstallOptions options() {
  InstallOptions out;
  out.prefix = "/opt/d";
  return out;
}

// What the plan of good() leaves behind.
InstallFacts installed() {
  auto facts = good();
  facts.state = make_plan(options(), facts)->state;
  facts.state->kms_vm_id = "vm-1";
  facts.state->kms_ca_cert = "/opt/d/etc/dstack/kms-ca.pem";
  facts.auth_running = facts.vmm_running = facts.kms_running = true;
  facts.port_is_free = busy({9080, 8001, 10000, 12443});
  return facts;
}

void expect_refused(const InstallOptions& o, const InstallFacts& facts, base::Code code,
                    const std::string& thing) {
  const auto plan = make_plan(o, facts);
  ASSERT_FALSE(plan) << thing;
  EXPECT_EQ(plan.error().code, code) << plan.error().what();
  EXPECT_NE((plan.error().message + plan.error().fix).find(thing), std::string::npos) << plan.error().what();
  EXPECT_FALSE(plan.error().fix.empty()) << plan.error().what();
}

TEST(InstallPlan, TheRecordHasTheVersionThatTheProgramsSay) {
  auto facts = good();
  facts.programs_version = "9.9.9";
  EXPECT_EQ(make_plan(options(), facts)->state.version, "9.9.9");
}

TEST(InstallPlan, Defaults) {
  const auto plan = make_plan(options(), good());
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_EQ(plan->dashboard_port, 9080);
  EXPECT_EQ(plan->auth_port, 8001);
  EXPECT_EQ(plan->host_api_port, 10000);
  EXPECT_EQ(plan->kms_port, k_first_kms_port);
  EXPECT_EQ(plan->cid_start, 1000U);
  EXPECT_EQ(plan->vmm_unit, "dstack-vmm-d-1");
  EXPECT_EQ(plan->os_image_hash, std::string(64, 'a'));
  EXPECT_EQ(plan->state.client_url, "http://127.0.0.1:9080");
  EXPECT_EQ(plan->state.kms_url, "https://10.0.2.2:12443");
  EXPECT_EQ(plan->state.kms_vm_id, std::nullopt);
  EXPECT_EQ(plan->state.install_prefix, "/opt/d");
  EXPECT_EQ(plan->state.cid_start, 1000U);
}

// Whatever checks were ignored: without these there is nothing to plan.
TEST(InstallPlan, ProblemsOfTheFacts) {
  const auto problem = [](base::Code code) { return base::Error{code, "this is broken", {}, "mend it"}; };
  auto facts = good();
  facts.platform_problem = problem(base::Code::no_platform);
  expect_refused(options(), facts, base::Code::no_platform, "broken");
  facts = good();
  facts.state_problem = problem(base::Code::state_corrupt);
  expect_refused(options(), facts, base::Code::state_corrupt, "broken");
  facts = good();
  facts.image_problem = problem(base::Code::image_not_found);
  expect_refused(options(), facts, base::Code::image_not_found, "broken");
}

// spec/host.md section 1.6: fail closed.
TEST(InstallPlan, ImagePin) {
  auto facts = good();
  facts.image.reset();
  expect_refused(options(), facts, base::Code::image_missing, "dstackup image build");
  auto o = options();
  o.no_kms = true;
  EXPECT_TRUE(make_plan(o, facts)) << "without a KMS an image may come later";
  facts = good();
  facts.image->os_image_hash.clear();
  expect_refused(options(), facts, base::Code::image_unpinned, "--allow-unpinned-image");
  EXPECT_TRUE(make_plan(o, facts));
  EXPECT_FALSE(make_plan(o, facts)->allow_any_image) << "only the flag opens the list";
  o = options();
  o.allow_unpinned_image = true;
  auto plan = make_plan(o, facts);
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->allow_any_image);
  EXPECT_THAT(plan->warnings.back(), HasSubstr("released to any guest image"));
  plan = make_plan(o, good());
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->os_image_hash, std::string(64, 'a')) << "a digest that is there is used";
  EXPECT_FALSE(plan->allow_any_image);
  EXPECT_THAT(plan->warnings.back(), HasSubstr("--allow-unpinned-image changes nothing"));
}

TEST(InstallPlan, TheFormerPinGoesWithItsLastUser) {
  auto facts = installed();
  facts.state->image = "former";
  facts.state->os_image_hash = std::string(64, 'f');
  EXPECT_EQ(make_plan(options(), facts)->former_image_hash, std::string(64, 'f'));
  facts.image_users = {"db", "web"};
  const auto plan = make_plan(options(), facts);
  EXPECT_EQ(plan->former_image_hash, "");
  EXPECT_THAT(plan->warnings.back(),
              AllOf(HasSubstr("former"), HasSubstr("db, web"), HasSubstr("image unpin")));
  facts.state->os_image_hash = facts.image->os_image_hash;
  facts.image_users.clear();
  EXPECT_EQ(make_plan(options(), facts)->former_image_hash, "") << "it is the same one";
}

// Its name and digest are not known before it is here.
TEST(InstallPlan, AnImageThatIsPulledFirst) {
  auto facts = good();
  facts.image.reset();
  facts.image_to_pull = ReleaseWish{"0.6.0", false};
  const auto plan = make_plan(options(), facts);
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_EQ(plan->image_to_pull, "the release 0.6.0");
  EXPECT_EQ(plan->image + plan->os_image_hash, "");
  facts.image_to_pull = ReleaseWish{};
  EXPECT_EQ(make_plan(options(), facts)->image_to_pull, "the latest release");
}

TEST(InstallPlan, ProgramsThatAreRunAsTheyAre) {
  auto facts = installed();
  facts.named.vmm = "/usr/bin/dstack-vmm";
  facts.vmm_program = facts.named.vmm;
  facts.programs = ProgramSet{"/b", "0123456789abcdef", {"dstack-auth", "dstack-vmm"}};
  const auto plan = make_plan(options(), facts);
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_EQ(plan->vmm_program, "/usr/bin/dstack-vmm");
  EXPECT_EQ(plan->auth_program, "/opt/d/libexec/dstack/versions/0123456789abcdef/dstack-auth");
  EXPECT_TRUE(plan->vmm_outdated);
  EXPECT_EQ(plan->state.vmm_program(), plan->vmm_program);
  EXPECT_EQ(plan->state.auth_program(), plan->auth_program);
  // Another file at that path.
  facts.state = plan->state;
  EXPECT_FALSE(make_plan(options(), facts)->vmm_outdated);
  facts.state->vmm_bin_seen = "another";
  EXPECT_TRUE(make_plan(options(), facts)->vmm_outdated);
  EXPECT_FALSE(make_plan(options(), facts)->auth_outdated);
}

TEST(InstallPlan, WhereNothingIsCopiedThereAreNoDirectoriesForIt) {
  auto facts = good();
  facts.named = {true, "/usr/bin/dstack-vmm", "/usr/bin/dstack-auth", ""};
  facts.programs = ProgramSet{"/b", "0123456789abcdef", {}};
  const auto plan = make_plan(options(), facts);
  ASSERT_TRUE(plan);
  EXPECT_FALSE(plan->programs);
  EXPECT_TRUE(plan->state.skip_managed_binaries);
  EXPECT_EQ(plan->state.programs_dir, "");
  auto o = options();
  o.libexec_dir = "/opt/x";
  expect_refused(o, facts, base::Code::invalid_argument, "--libexec-dir");
}

TEST(InstallPlan, ASupervisorIsForHostsWithoutSystemd) {
  auto o = options();
  o.supervisor_bin = "/usr/bin/dstackup";
  auto facts = good();
  facts.service_manager = "systemd";
  expect_refused(o, facts, base::Code::invalid_argument, "--supervisor-bin");
  facts.service_manager = "supervisor";
  facts.named.supervisor = "/usr/bin/dstackup";
  EXPECT_EQ(make_plan(o, facts)->state.supervisor_bin, "/usr/bin/dstackup");
}

// After an install that chose programs and started nothing, the record names what does not run.
TEST(InstallPlan, ServicesThatRunOtherProgramsThanTheRecordNamesAreOutdated) {
  auto facts = installed();
  facts.programs = ProgramSet{"/b", "0123456789abcdef", {"dstack-auth", "dstack-vmm"}};
  facts.state = make_plan(options(), facts)->state;
  facts.vmm_set = facts.auth_set = "0123456789abcdef";
  EXPECT_FALSE(make_plan(options(), facts)->vmm_outdated);
  facts.vmm_set = "fedcba9876543210";
  EXPECT_TRUE(make_plan(options(), facts)->vmm_outdated);
  EXPECT_FALSE(make_plan(options(), facts)->auth_outdated);
}

TEST(InstallPlan, DirectoriesOfTheFlagsAreRecordedWhereTheyDiffer) {
  auto facts = good();
  EXPECT_EQ(make_plan(options(), facts)->state.libexec_dir, "");
  facts.layout.libexec = "/opt/x";
  EXPECT_EQ(make_plan(options(), facts)->state.libexec_dir, "/opt/x");
  EXPECT_EQ(make_plan(options(), facts)->state.bin_dir, "");
}

TEST(InstallPlan, KmsImage) {
  auto facts = good();
  facts.kms_image_in_volume = false;
  facts.kms_volumes.clear();
  expect_refused(options(), facts, base::Code::image_missing, "dstackup volume add");
  auto o = options();
  o.kms_image = "registry.example/kms:1";
  const auto plan = make_plan(o, facts);
  ASSERT_TRUE(plan);
  EXPECT_FALSE(plan->warnings.empty());
  o.kms_image = "evil\"\n";
  EXPECT_FALSE(make_plan(o, facts));
}

TEST(InstallPlan, Ports) {
  auto facts = good();
  facts.port_is_free = busy({12443, 12444});
  EXPECT_EQ(make_plan(options(), facts)->kms_port, 12445);
  // Another installation's KMS that does not listen yet.
  facts.others.kms_ports = {12445, 12447};
  EXPECT_EQ(make_plan(options(), facts)->kms_port, 12446);
  auto o = options();
  o.dashboard_port = 8001;
  expect_refused(o, good(), base::Code::port_conflict, "--dashboard-port");
  o = options();
  o.kms_port = 40000;
  expect_refused(o, good(), base::Code::invalid_argument, "--kms-port");
  o.kms_port = 0;
  expect_refused(o, good(), base::Code::invalid_argument, "--kms-port");
  o = options();
  o.auth_port = 0;
  expect_refused(o, good(), base::Code::invalid_argument, "--auth-port");
}

// Re-running keeps everything although our own services hold the ports and our own VMs the addresses.
TEST(InstallPlan, RerunKeepsWhatThereIs) {
  const auto facts = installed();
  const auto plan = make_plan(options(), facts);
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_EQ(to_json_text(plan->state), to_json_text(*facts.state));
  EXPECT_EQ(plan->kms_port, 12443);
}

// spec/host.md section 1.5: a port is only ours while our own service runs.
TEST(InstallPlan, PortsOfOursAreOursWhileTheirServiceRuns) {
  const auto ours = [](const InstallOptions& o, const InstallFacts& facts) {
    std::set<std::string> out;
    const auto ports = plan_ports(o, facts);
    for (const auto& port : ports->all) {
      if (port.ours) {
        out.insert(port.flag);
      }
    }
    return out;
  };
  using Flags = std::set<std::string>;
  auto facts = installed();
  EXPECT_EQ(ours(options(), facts),
            (Flags{"--dashboard-port", "--auth-port", "--host-api-port", "--kms-port"}));
  facts.vmm_running = false;
  EXPECT_EQ(ours(options(), facts), (Flags{"--auth-port", "--kms-port"}));
  facts.auth_running = facts.kms_running = false;
  EXPECT_EQ(ours(options(), facts), Flags{});
  facts = installed();
  auto o = options();
  o.dashboard_port = 9090;
  EXPECT_EQ(ours(o, facts), (Flags{"--auth-port", "--host-api-port", "--kms-port"}))
      << "a new port is not ours";
}

TEST(InstallPlan, KeyProviderPortOnTdx) {
  auto facts = good();
  EXPECT_EQ(plan_ports(options(), facts)->key_provider, 0);
  facts.platform = PlatformKind::tdx;
  auto ports = plan_ports(options(), facts);
  EXPECT_EQ(ports->key_provider, 3443);
  EXPECT_FALSE(std::ranges::find(ports->all, "--key-provider-port", &PlannedPort::flag)->ours);
  facts.state = InstallState{};
  facts.state->kp_own_project = "dstack-kp-3443";
  ports = plan_ports(options(), facts);
  EXPECT_TRUE(std::ranges::find(ports->all, "--key-provider-port", &PlannedPort::flag)->ours);
  auto o = options();
  o.key_provider_port = 9080;
  EXPECT_EQ(check_port_numbers(plan_ports(o, facts)->all).error().code, base::Code::port_conflict);
}

TEST(InstallPlan, RerunWithOtherFlags) {
  auto o = options();
  o.dashboard_port = 9090;
  const auto plan = make_plan(o, installed());
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->state.client_url, "http://127.0.0.1:9090");
  EXPECT_EQ(plan->kms_port, 12443);
  // These are part of what the KMS was measured with.
  o = options();
  o.auth_port = 8002;
  expect_refused(o, installed(), base::Code::invalid_argument, "--auth-port");
  o = options();
  o.kms_port = 12000;
  expect_refused(o, installed(), base::Code::invalid_argument, "--kms-port");
  o = options();
  o.no_kms = true;
  expect_refused(o, installed(), base::Code::invalid_argument, "--no-kms");
  o = options();
  o.kms_image = "localhost/other:1";
  expect_refused(o, installed(), base::Code::invalid_argument, "--kms-image");
  o.kms_image = "localhost/dstack-kms:" DSTACK_VERSION;
  EXPECT_TRUE(make_plan(o, installed()));
}

TEST(InstallPlan, OtherPlatformOrInstanceIsRefused) {
  auto facts = installed();
  facts.state->platform = "tdx";
  expect_refused(options(), facts, base::Code::invalid_argument, "tdx");
  facts = installed();
  facts.instance = "other";
  expect_refused(options(), facts, base::Code::invalid_argument, "--instance");
}

TEST(InstallPlan, TakenDownInstallComesBackAsItWas) {
  auto facts = installed();
  facts.last = facts.state;
  facts.last->kms_port = 13000;
  facts.last->cid_start = 5000;
  facts.state.reset();
  facts.auth_running = facts.vmm_running = facts.kms_running = false;
  facts.port_is_free = busy({});
  const auto plan = make_plan(options(), facts);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->kms_port, 13000);
  EXPECT_EQ(plan->cid_start, 5000U);
  EXPECT_EQ(plan->state.kms_vm_id, "vm-1");
  EXPECT_EQ(plan->state.kms_ca_cert, "/opt/d/etc/dstack/kms-ca.pem");
}

TEST(InstallPlan, WhatIsExposedStaysUntilItIsTakenBack) {
  auto o = options();
  EXPECT_EQ(make_plan(o, good())->expose, "");
  o.expose = "192.0.2.7";
  auto plan = make_plan(o, good());
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_EQ(plan->expose, "192.0.2.7");
  EXPECT_EQ(plan->state.exposed_url(), "https://192.0.2.7:9080");
  EXPECT_EQ(plan->state.tls_cert, "/opt/d/etc/dstack/vmm-tls.pem");
  auto facts = installed();
  facts.state->expose = "192.0.2.7";
  EXPECT_EQ(make_plan(options(), facts)->expose, "192.0.2.7");
  o.expose = "2001:db8::1";
  EXPECT_EQ(make_plan(o, facts)->state.exposed_url(), "https://[2001:db8::1]:9080");
  o.expose = "none";
  plan = make_plan(o, facts);
  EXPECT_EQ(plan->expose, "");
  EXPECT_EQ(plan->state.exposed_url(), "");
  EXPECT_EQ(plan->state.tls_cert, "");
}

// The same port on two addresses is no conflict; one of the plan's is held by ours only while it serves
// there.
TEST(InstallPlan, TheExposedPortIsTestedUnlessOursServesThere) {
  auto o = options();
  o.expose = "192.0.2.7";
  auto facts = installed();
  const auto flags = [](const PortPlan& ports) {
    std::string out;
    for (const auto& port : ports.all) {
      out += port.flag == "--expose" ? port.ip + (port.ours ? " ours" : " to be tested") : "";
    }
    return out;
  };
  EXPECT_EQ(flags(*plan_ports(o, facts)), "192.0.2.7 to be tested");
  facts.state->expose = "192.0.2.7";
  EXPECT_EQ(flags(*plan_ports(o, facts)), "192.0.2.7 ours");
  facts.vmm_running = false;
  EXPECT_EQ(flags(*plan_ports(o, facts)), "192.0.2.7 to be tested");
  EXPECT_TRUE(make_plan(o, good()));
}

TEST(InstallPlan, TheKeyProviderIsKept) {
  auto facts = good();
  facts.platform = PlatformKind::tdx;
  auto o = options();
  expect_refused(o, facts, base::Code::key_provider, "--use-existing-key-provider");
  o.existing_key_provider = "10.1.1.1:3443";
  const auto plan = make_plan(o, facts);
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_EQ(plan->state.key_provider, "10.1.1.1:3443");
  EXPECT_EQ(plan->state.kp_own_project, std::nullopt);
  facts.state = plan->state;
  EXPECT_EQ(make_plan(options(), facts)->state.key_provider, "10.1.1.1:3443");
}

TEST(InstallPlan, OtherVmms) {
  auto facts = good();
  facts.others.cids = {{1000, 2000}};
  facts.others.vmms = {{42, "/etc/other/vmm.toml"}};
  const auto plan = make_plan(options(), facts);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->cid_start, 2000U);
  ASSERT_FALSE(plan->warnings.empty());
  auto o = options();
  o.cid_start = 1500;
  expect_refused(o, facts, base::Code::cid_conflict, "--cid-start 2000");
}

TEST(InstallFacts, BadInputIsRefusedBeforeAnything) {
  const test::TempDir dir;
  InstallOptions o;
  o.platform = "simulated";
  o.prefix = "relative";
  EXPECT_EQ(gather_facts(o).error().code, base::Code::layout);
  o.prefix = (dir / "p").string();
  o.platform = "nonsense";
  EXPECT_EQ(gather_facts(o).error().code, base::Code::invalid_argument);
  o.platform = "simulated";
  o.image = "no-such-image";
  EXPECT_EQ(gather_facts(o)->image_problem->code, base::Code::image_not_found);
  o.image.reset();
  EXPECT_FALSE(gather_facts(o)->image_problem);
  EXPECT_FALSE(std::filesystem::exists(dir / "p"));
}

TEST(InstallFacts, BrokenRecordIsNotTakenForNone) {
  const test::TempDir dir;
  InstallOptions o;
  o.prefix = (dir / "p").string();
  const auto state = dir / "p/var/lib/dstack/dstackup-state.json";
  std::filesystem::create_directories(state.parent_path());
  std::ofstream(state) << "{";
  EXPECT_EQ(gather_facts(o)->state_problem->code, base::Code::state_corrupt);
  std::filesystem::rename(state, state.parent_path() / "dstackup-state.last.json");
  EXPECT_EQ(gather_facts(o)->state_problem->code, base::Code::state_corrupt);
}

// What was asked for once stays: install without --platform goes on with it.
TEST(InstallFacts, AutoIsWhatIsInstalled) {
  const test::TempDir dir;
  InstallOptions o;
  o.prefix = (dir / "p").string();
  auto state = make_plan(options(), good())->state;
  std::filesystem::create_directories(dir / "p/var/lib/dstack");
  ASSERT_TRUE(save_state(dir / "p/var/lib/dstack/dstackup-state.json", state));
  const auto facts = gather_facts(o);
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->platform, PlatformKind::simulated);
  EXPECT_FALSE(facts->platform_problem);
  o.platform = "tdx";
  EXPECT_EQ(gather_facts(o)->platform_problem->code, base::Code::unsupported);
}

}  // namespace
}  // namespace dstack::host
