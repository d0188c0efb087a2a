#include "client/deploy.h"

#include <gmock/gmock.h>

#include "app/allowlist_file.h"
#include "base/format.h"
#include "base/fs.h"
#include "client/remove.h"
#include "unit/client/fake_vmm.h"
#include "unit/client/listener.h"
#include "unit/temp_dir.h"

using namespace dstack;
using namespace std::chrono_literals;
using base::Code;
using client::DeployRequest;
using test::Listener;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

namespace {

constexpr const char* k_compose = "services:\n  web:\n    image: nginx:alpine\n    ports: ['80:80']\n";

class DeployTest : public testing::Test {
 protected:
  test::TempDir m_directory;
  test::FakeVmm m_fake;
  client::VmmClient m_vmm{m_fake.endpoint(), "secret"};
  app::AllowlistFile m_allowlist{m_directory / "auth-allowlist.json"};
  std::vector<std::string> m_steps;
  std::vector<std::string> m_warnings;
  std::atomic<bool> m_interrupted = false;
  client::DeployObserver m_observer{[this](std::string_view text) { m_steps.emplace_back(text); },
                                    {},
                                    [this](std::string_view text) { m_warnings.emplace_back(text); },
                                    [this] { return m_interrupted.load(); }};

  void SetUp() override { ASSERT_TRUE(m_allowlist.create_if_missing()); }

  DeployRequest request() {
    DeployRequest out;
    out.compose_text = k_compose;
    out.compose_name = "docker-compose.yaml";
    out.name = "hello";
    out.image = "dstack-0.1.0";
    out.allowlist = m_allowlist.path();
    return out;
  }
  base::Result<client::Deployed> deploy(const DeployRequest& what) {
    DS_TRY(const auto plan, client::plan_deploy(what));
    return client::create_app(m_vmm, what, plan, m_observer);
  }
  std::size_t grants() { return m_allowlist.apps()->size(); }
  client::WaitOptions quick() {
    return {.timeout = 2s, .poll = 2ms, .vmm_silence = 200ms, .probe_ports = true};
  }
};

}  // namespace

TEST_F(DeployTest, PlanNeedsNoVmm) {
  DeployRequest what;
  what.compose_text = "services:\n  web:\n    image: nginx:alpine\n";
  what.compose_name = "c.yaml";
  const auto plan = client::plan_deploy(what);
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_EQ(plan->compose_hash, "8dfb61522d1ee9040c69d324808937c0e07a6568b6c03f10d9c076bc9aa1778b");
  EXPECT_EQ(plan->app_id, "8dfb61522d1ee9040c69d324808937c0e07a6568");
  EXPECT_EQ(m_fake.calls("GetComposeHash"), 0);
}

TEST_F(DeployTest, PlanRefusesBadInput) {
  const auto refused = [&](auto change) {
    DeployRequest what = request();
    change(what);
    const auto plan = client::plan_deploy(what);
    return plan ? std::string("accepted") : base::to_string(plan.error().code);
  };
  EXPECT_EQ(refused([](auto& what) { what.compose_text = "services: ["; }), "DS1501");
  EXPECT_EQ(refused([](auto& what) { what.name = ""; }), "DS1007");
  EXPECT_EQ(refused([](auto& what) { what.name = "a\x1b[2J"; }), "DS1007");
  EXPECT_EQ(refused([](auto& what) { what.memory = 0; }), "DS1007");
  EXPECT_EQ(refused([](auto& what) { what.vcpu = 0; }), "DS1007");
  EXPECT_EQ(
      refused([](auto& what) { what.ports = {{"tcp", "127.0.0.1", 80, 1}, {"tcp", "127.0.0.1", 80, 2}}; }),
      "DS1502");
  EXPECT_EQ(refused([](auto& what) {
              what.volumes = {{"a", std::string(64, 'a'), "/x"}, {"b", std::string(64, 'b'), "/x"}};
            }),
            "DS1503");
}

TEST_F(DeployTest, PlanWarnsWhenNobodyPublishesThePort) {
  DeployRequest what = request();
  what.ports = {{"tcp", "127.0.0.1", 18080, 81}};
  EXPECT_THAT(client::plan_deploy(what)->warnings, ElementsAre(HasSubstr("81/tcp")));
}

TEST_F(DeployTest, PlanAttachesTheVolumeThatHoldsTheImage) {
  const std::string root(64, 'a');
  ASSERT_TRUE(base::make_dirs(m_directory / "volumes"));
  ASSERT_TRUE(base::write_file_atomic(
      m_directory / "volumes/index.json",
      base::format(
          "{{\"volumes\":[{{\"name\":\"nginx\",\"file\":\"nginx.img\",\"verity_root\":\"{}\",\"images\":"
          "[\"docker.io/library/nginx:alpine\"]}}]}}",
          root)));
  DeployRequest what = request();
  what.state_directory = m_directory.path();
  const auto plan = client::plan_deploy(what);
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_THAT(plan->volumes,
              ElementsAre(app::VerityVolume{"nginx.img", root, "/run/dstack/image-stores/nginx"}));
  EXPECT_THAT(plan->notes, ElementsAre("image nginx:alpine comes from volume nginx"));
  EXPECT_THAT(plan->app_compose, HasSubstr("\"source\": \"nginx.img\""));
  what.compose_text = "services: {web: {image: other}}";
  const auto other = client::plan_deploy(what);
  EXPECT_THAT(other->volumes, IsEmpty());
  EXPECT_THAT(other->notes, ElementsAre(HasSubstr("pulls it")));
}

TEST_F(DeployTest, CreatesTheVmAndTheGrant) {
  DeployRequest what = request();
  what.ports = {{"udp", "127.0.0.1", 18080, 80}};
  const auto deployed = deploy(what);
  ASSERT_TRUE(deployed) << deployed.error().what();
  EXPECT_TRUE(deployed->granted);
  const auto plan = client::plan_deploy(what).value();
  ASSERT_EQ(grants(), 1U);
  EXPECT_EQ(m_allowlist.apps()->at(0).app_id, plan.app_id);
  EXPECT_THAT(m_allowlist.apps()->at(0).compose_hashes, ElementsAre(plan.compose_hash));
  const auto vms = m_fake.vms();
  ASSERT_EQ(vms.size(), 1U);
  const auto& config = vms[0].configuration();
  EXPECT_EQ(config.compose_file(), plan.app_compose);
  EXPECT_EQ(config.app_id(), plan.app_id);
  EXPECT_EQ(config.vcpu(), 2U);
  EXPECT_EQ(config.memory(), 2048U);
  EXPECT_EQ(config.disk_size(), 20U);
  EXPECT_EQ(config.ports(0).host_port(), 18080U);
  EXPECT_EQ(config.ports(0).vm_port(), 80U);
  EXPECT_EQ(config.ports(0).host_address(), "127.0.0.1");
}

TEST_F(DeployTest, WithoutKmsThereIsNoGrant) {
  DeployRequest what = request();
  what.kms = false;
  ASSERT_TRUE(deploy(what));
  EXPECT_EQ(grants(), 0U);
}

TEST_F(DeployTest, WithoutAnAllowlistItWarns) {
  DeployRequest what = request();
  what.allowlist.reset();
  ASSERT_TRUE(deploy(what));
  EXPECT_THAT(m_warnings, ElementsAre(HasSubstr("--allowlist")));
}

TEST_F(DeployTest, ARefusedDeployTakesItsGrantBack) {
  m_fake.on_create = [](auto&, auto&) -> base::Result<> {
    return base::fail(Code::rpc, "Port mapping is not allowed for tcp:30000");
  };
  const auto deployed = deploy(request());
  ASSERT_FALSE(deployed);
  EXPECT_EQ(deployed.error().code, Code::deploy_refused);
  EXPECT_THAT(deployed.error().what(), HasSubstr("not allowed for tcp:30000"));
  EXPECT_EQ(grants(), 0U);
}

TEST_F(DeployTest, AGrantThatWasThereBeforeStays) {
  const auto plan = client::plan_deploy(request()).value();
  ASSERT_TRUE(m_allowlist.register_app(plan.app_id, plan.compose_hash).value());
  m_fake.on_create = [](auto&, auto&) -> base::Result<> { return base::fail(Code::rpc, "no"); };
  ASSERT_FALSE(deploy(request()));
  EXPECT_EQ(grants(), 1U);
}

TEST_F(DeployTest, AVmmThatComputesAnotherHashIsRefused) {
  m_fake.compose_hash_lie = std::string(64, '0');
  const auto deployed = deploy(request());
  ASSERT_FALSE(deployed);
  EXPECT_EQ(deployed.error().code, Code::hash_mismatch);
  EXPECT_EQ(grants(), 0U);
  EXPECT_EQ(m_fake.calls("CreateVm"), 0);
}

TEST_F(DeployTest, ImageMustExist) {
  DeployRequest what = request();
  what.image = "nope";
  auto error = deploy(what).error();
  EXPECT_EQ(error.code, Code::no_image);
  EXPECT_THAT(error.message, HasSubstr("nope"));
  EXPECT_THAT(error.fix, HasSubstr("dstack-0.1.0"));
  what.image.reset();
  EXPECT_EQ(deploy(what).error().code, Code::no_image);
  m_fake.set_images({});
  EXPECT_THAT(deploy(what).error().fix, HasSubstr("dstackup image build"));
  EXPECT_EQ(grants(), 0U);
  EXPECT_EQ(m_fake.calls("CreateVm"), 0);
}

TEST_F(DeployTest, NameMustBeFree) {
  ASSERT_TRUE(deploy(request()));
  const auto error = deploy(request()).error();
  EXPECT_EQ(error.code, Code::name_taken);
  EXPECT_THAT(error.fix, HasSubstr("dstack remove hello"));
  EXPECT_EQ(grants(), 1U) << "the first deploy keeps its grant";
}

TEST_F(DeployTest, APortInUseNamesItsHolder) {
  const Listener listener;
  DeployRequest what = request();
  what.ports = {{"tcp", "127.0.0.1", listener.port, 80}};
  const auto error = deploy(what).error();
  EXPECT_EQ(error.code, Code::port_in_use);
  EXPECT_THAT(error.message,
              AllOf(HasSubstr(std::to_string(listener.port)), HasSubstr(std::to_string(::getpid()))));
  EXPECT_EQ(grants(), 0U);
  EXPECT_EQ(m_fake.calls("CreateVm"), 0);
}

TEST_F(DeployTest, APortOfAnotherVmNamesTheVm) {
  DeployRequest what = request();
  what.ports = {{"udp", "127.0.0.1", 5353, 53}};
  ASSERT_TRUE(deploy(what));
  what.name = "other";
  EXPECT_THAT(deploy(what).error().message, HasSubstr("hello"));
  what.ports[0].host_address = "0.0.0.0";
  EXPECT_EQ(deploy(what).error().code, Code::port_in_use);
  what.ports[0].host_address = "127.0.0.2";
  EXPECT_TRUE(deploy(what));
}

TEST_F(DeployTest, AutomaticPortsAreInTheAllowedRangeAndDistinct) {
  DeployRequest what = request();
  what.ports = {{"tcp", "127.0.0.1", 0, 80}, {"tcp", "127.0.0.1", 0, 81}};
  const auto first = deploy(what);
  ASSERT_TRUE(first) << first.error().what();
  what.name = "second";
  const auto second = deploy(what);
  ASSERT_TRUE(second) << second.error().what();
  std::set<std::uint16_t> seen;
  for (const auto& deployed : {*first, *second}) {
    for (const auto& port : deployed.ports) {
      EXPECT_GE(port.host_port, 1);
      EXPECT_LE(port.host_port, 20000);
      EXPECT_TRUE(seen.insert(port.host_port).second);
    }
  }
}

TEST_F(DeployTest, AMissingOrCorruptAllowlistStopsBeforeCreate) {
  ASSERT_TRUE(base::write_file_atomic(m_allowlist.path(), "{"));
  EXPECT_EQ(deploy(request()).error().code, Code::bad_allowlist);
  std::filesystem::remove(m_allowlist.path());
  EXPECT_THAT(deploy(request()).error().fix, HasSubstr("dstackup install"));
  EXPECT_EQ(m_fake.calls("CreateVm"), 0);
}

TEST_F(DeployTest, WaitsForDoneAndThenForThePorts) {
  const Listener listener;
  m_fake.on_create = [](::vmm::VmInfo& info, auto&) -> base::Result<> {
    info.set_status("running");
    info.set_boot_progress("booting");
    return {};
  };
  int polls = 0;
  m_fake.on_info = [&](::vmm::VmInfo& info) {
    const char* progress[] = {"booting", "requesting app keys", "data disk ready", "starting containers",
                              "done"};
    // Two events between two polls must both be seen.
    const int now = std::min(++polls * 2, 4);
    info.clear_events();
    for (int i = 1; i <= now; ++i) {
      auto& event = *info.add_events();
      event.set_event("boot.progress");
      event.set_body(progress[i]);
      event.set_timestamp(static_cast<std::uint64_t>(i));
    }
    auto& other = *info.add_events();
    other.set_event("instance.info");
    other.set_body("{}");
    info.set_boot_progress(progress[now]);
  };
  DeployRequest what = request();
  auto deployed = deploy(what);
  ASSERT_TRUE(deployed) << deployed.error().what();
  deployed->ports = {{"tcp", "127.0.0.1", listener.port, 80}, {"udp", "127.0.0.1", 5353, 53}};
  m_steps.clear();
  const auto ready = client::wait_until_ready(m_vmm, *deployed, m_observer, quick());
  ASSERT_TRUE(ready) << ready.error().what();
  EXPECT_THAT(m_steps, ElementsAre("requesting app keys", "data disk ready", "starting containers", "done",
                                   base::format("port {} answers", listener.port)));
}

TEST_F(DeployTest, ABootErrorIsTheReason) {
  const auto deployed = deploy(request()).value();
  m_fake.on_info = [](::vmm::VmInfo& info) {
    info.set_boot_progress("requesting app keys");
    info.set_boot_error("App not allowed: Boot denied: compose hash not allowed");
  };
  const auto ready = client::wait_until_ready(m_vmm, deployed, m_observer, quick());
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code, Code::boot_failed);
  EXPECT_THAT(ready.error().what(), HasSubstr("Boot denied: compose hash not allowed"));
  EXPECT_THAT(ready.error().fix, AllOf(HasSubstr("dstack logs"), HasSubstr("dstack remove")));
}

TEST_F(DeployTest, AVmThatEndsOrVanishesIsAFailure) {
  const auto deployed = deploy(request()).value();
  m_fake.on_info = [](::vmm::VmInfo& info) {
    info.set_boot_progress("booting");
    info.set_status("exited");
  };
  EXPECT_THAT(client::wait_until_ready(m_vmm, deployed, m_observer, quick()).error().what(),
              HasSubstr("exited"));
  EXPECT_EQ(client::wait_until_ready(m_vmm, {.vm_id = "gone"}, m_observer, quick()).error().code,
            Code::boot_failed);
}

TEST_F(DeployTest, TimesOutWithTheLastProgress) {
  const auto deployed = deploy(request()).value();
  m_fake.on_info = [](::vmm::VmInfo& info) { info.set_boot_progress("setting up docker"); };
  auto options = quick();
  options.timeout = 30ms;
  const auto ready = client::wait_until_ready(m_vmm, deployed, m_observer, options);
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code, Code::boot_timeout);
  EXPECT_THAT(ready.error().what(), HasSubstr("setting up docker"));
}

TEST_F(DeployTest, ASilentPortIsNamedOnTimeout) {
  std::uint16_t port = 0;
  {
    const Listener listener;
    port = listener.port;
  }
  auto deployed = deploy(request()).value();
  deployed.ports = {{"tcp", "127.0.0.1", port, 80}};
  auto options = quick();
  options.timeout = 30ms;
  const auto ready = client::wait_until_ready(m_vmm, deployed, m_observer, options);
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code, Code::boot_timeout);
  EXPECT_THAT(ready.error().what(), AllOf(HasSubstr("port 80"), HasSubstr(std::to_string(port))));
}

TEST_F(DeployTest, InterruptedSaysHowToContinue) {
  const auto deployed = deploy(request()).value();
  m_fake.on_info = [](::vmm::VmInfo& info) { info.set_boot_progress("booting"); };
  m_interrupted = true;
  const auto ready = client::wait_until_ready(m_vmm, deployed, m_observer, quick());
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code, Code::interrupted);
  EXPECT_THAT(ready.error().fix, HasSubstr("dstack logs -f " + deployed.vm_id));
}

TEST_F(DeployTest, ASilentVmmIsToleratedForAWhile) {
  const client::VmmClient nobody(net::Endpoint::parse("http://127.0.0.1:1").value());
  const auto start = std::chrono::steady_clock::now();
  const auto ready = client::wait_until_ready(nobody, {.vm_id = "x"}, m_observer, quick());
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code, Code::vmm_unreachable);
  EXPECT_GE(std::chrono::steady_clock::now() - start, 200ms);
}

TEST_F(DeployTest, RemoveTakesTheGrantBack) {
  ASSERT_TRUE(deploy(request()));
  const auto vms = m_vmm.vms().value();
  const auto removed = client::remove_app(m_vmm, vms[0], vms, {.allowlist = m_allowlist.path()});
  ASSERT_TRUE(removed) << removed.error().what();
  EXPECT_TRUE(removed->grant_revoked);
  EXPECT_TRUE(removed->gone);
  EXPECT_EQ(grants(), 0U);
  EXPECT_THAT(m_fake.vms(), IsEmpty());
}

TEST_F(DeployTest, RemoveKeepsAGrantThatIsSharedOrWanted) {
  ASSERT_TRUE(deploy(request()));
  auto twin = m_fake.vms()[0];
  twin.set_id("twin");
  twin.set_name("twin");
  m_fake.add(twin);
  auto vms = m_vmm.vms().value();
  EXPECT_FALSE(client::remove_app(m_vmm, vms[0], vms, {.allowlist = m_allowlist.path()})->grant_revoked);
  EXPECT_EQ(grants(), 1U);
  vms = m_vmm.vms().value();
  EXPECT_FALSE(client::remove_app(m_vmm, vms[0], vms, {.allowlist = m_allowlist.path(), .keep_grant = true})
                   ->grant_revoked);
  EXPECT_EQ(grants(), 1U);
}

TEST_F(DeployTest, RemoveDoesNotWaitForever) {
  ASSERT_TRUE(deploy(request()));
  m_fake.keep_removed = true;
  const auto vms = m_vmm.vms().value();
  const auto removed =
      client::remove_app(m_vmm, vms[0], vms, {.allowlist = m_allowlist.path(), .timeout = 10ms});
  ASSERT_TRUE(removed);
  EXPECT_FALSE(removed->gone);
  EXPECT_TRUE(removed->grant_revoked);
}
