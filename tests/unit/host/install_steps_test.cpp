// The steps with a fake service manager: what they make, that they journal first, that they converge, and
// that purge takes everything away again from every half-made state.
#include "host/install_steps.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "app/allowlist_file.h"
#include "base/fs.h"
#include "host/uninstall.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

class FakeServices : public ServiceManager {
 public:
  std::string kind() const override { return "supervisor"; }
  std::string description() const override { return "fake"; }
  base::Result<> start(const ServiceSpec& spec) override {
    if (broken == spec.name) {
      return base::fail(base::Code::service_failed, "the service " + spec.name + " did not start");
    }
    const auto definition = std::pair(spec.argv, spec.environment);
    if (!pids.contains(spec.name) || definitions[spec.name] != definition) {
      pids[spec.name] = ++next;
      definitions[spec.name] = definition;
    }
    return {};
  }
  base::Result<> restart(const ServiceSpec& spec) override {
    pids[spec.name] = ++next;
    return {};
  }
  base::Result<> stop(const std::string&) override { return {}; }
  base::Result<> remove(const std::string& name) override {
    pids.erase(name);
    return {};
  }
  base::Result<ServiceStatus> status(const std::string& name) override {
    ServiceStatus out;
    out.name = name;
    if (pids.contains(name)) {
      out.pid = pids[name];
      out.state = ServiceState::active;
    }
    return out;
  }
  base::Result<std::vector<std::string>> logs(const std::string&, std::size_t) override {
    return std::vector<std::string>();
  }
  base::Result<> shut_down() override { return {}; }

  std::map<std::string, pid_t> pids;
  std::map<std::string, std::pair<std::vector<std::string>, std::vector<std::string>>> definitions;
  std::string broken;
  pid_t next = 100;
};

class InstallSteps : public ::testing::Test {
 protected:
  void SetUp() override {
    plan.layout = *Layout::make((dir / "p").string());
    plan.platform = "simulated";
    plan.vmm_unit = "dstack-vmm-x";
    plan.auth_unit = "dstack-auth-x";
    plan.image = "img";
    plan.os_image_hash = std::string(64, 'a');
    plan.dashboard_port = 9080;
    plan.auth_port = 8001;
    plan.host_api_port = 10000;
    plan.kms_port = 12443;
    plan.cid_start = 1000;
    plan.qemu = "/usr/bin/qemu";
    plan.auth_program = "/b/dstack-auth";
    plan.vmm_program = "/b/dstack-vmm";
    plan.state.vmm_unit = plan.vmm_unit;
    plan.state.auth_unit = plan.auth_unit;
    plan.state.programs_dir = "/b";
    plan.state.prefix = plan.layout.state;
    plan.state.client_url = "http://127.0.0.1:9080";
    plan.state.auth_port = 8001;
  }

  // Runs the first `count` steps; how many of them changed something.
  int run(std::size_t count = 1000) {
    EXPECT_TRUE(ensure_state_directory(plan.layout));
    auto journal = Journal::open(plan.layout.journal());
    EXPECT_TRUE(journal);
    InstallContext context{plan, services};
    int changed = 0;
    for (const auto& step : install_steps(context)) {
      if (count-- == 0) {
        break;
      }
      const auto applied = run_step(step, *journal);
      EXPECT_TRUE(applied) << step.name << ": " << applied.error().what();
      changed += applied && *applied ? 1 : 0;
    }
    return changed;
  }

  // "path mode size" of everything below the temporary directory.
  std::set<std::string> snapshot() const {
    std::set<std::string> out;
    for (const auto& entry : fs::recursive_directory_iterator(dir.path())) {
      struct stat info = {};
      ::lstat(entry.path().c_str(), &info);
      out.insert(entry.path().string() + " " + std::to_string(info.st_mode) + " " +
                 std::to_string(info.st_mtime) + " " + std::to_string(info.st_ino));
    }
    return out;
  }

  void purge_all() {
    const auto journal = Journal::read(plan.layout.journal());
    ASSERT_TRUE(journal);
    ASSERT_TRUE(discard_unfinished_state_directory(plan.layout));
    ASSERT_TRUE(remove_run_time(plan.layout));
    const auto removal = purge(plan.layout, *journal);
    ASSERT_TRUE(removal) << removal.error().what();
    EXPECT_EQ(removal->kept, std::vector<std::string>{});
  }

  mode_t mode(const fs::path& path) const {
    struct stat info = {};
    return ::lstat(path.c_str(), &info) == 0 ? info.st_mode & 07777 : 0;
  }

  test::TempDir dir;
  InstallPlan plan;
  FakeServices services;
};

TEST_F(InstallSteps, MakeEverything) {
  EXPECT_EQ(run(), 8);
  const auto& l = plan.layout;
  EXPECT_EQ(base::read_file(l.token_file())->size(), 64U);
  EXPECT_EQ(mode(l.token_file()), 0600U);
  EXPECT_EQ(mode(l.simulated_seed()), 0600U);
  EXPECT_EQ(mode(l.simulated_tee()), 0700U);
  EXPECT_EQ(mode(l.vmm_toml()), 0600U);
  EXPECT_NE(base::read_file(l.simulated_root())->find("BEGIN CERTIFICATE"), std::string::npos);
  EXPECT_TRUE(*load_state(l.state_file()));
  EXPECT_EQ(services.pids.size(), 2U);
  EXPECT_EQ(base::read_file(l.vmm_toml())->find(*base::read_file(l.token_file())), std::string::npos)
      << "the token stays in its file";
}

TEST_F(InstallSteps, AgainChangesNothing) {
  run();
  const auto before = snapshot();
  const auto pids = services.pids;
  EXPECT_EQ(run(), 0);
  EXPECT_EQ(snapshot(), before) << "not a single file may be written";
  EXPECT_EQ(services.pids, pids);
}

// failure-catalogue 1.4 #1: upstream's second install dropped every app.
TEST_F(InstallSteps, AgainKeepsAppsTokenAndSeed) {
  run();
  const app::AllowlistFile file(plan.layout.allowlist());
  ASSERT_TRUE(file.register_app(std::string(40, '1'), std::string(64, '2')));
  const auto token = *base::read_file(plan.layout.token_file());
  const auto seed = *base::read_file(plan.layout.simulated_seed());
  const auto root = *base::read_file(plan.layout.simulated_root());
  plan.os_image_hash = std::string(64, 'c');
  plan.dashboard_port = 9090;
  EXPECT_GT(run(), 0);
  EXPECT_EQ(file.apps()->size(), 1U);
  const auto loaded = app::load_allowlist(plan.layout.allowlist());
  ASSERT_TRUE(loaded);
  EXPECT_TRUE(loaded->allowlist.os_images.contains(std::string(64, 'a')))
      << "apps on the old image keep their keys";
  EXPECT_TRUE(loaded->allowlist.os_images.contains(std::string(64, 'c')));
  EXPECT_EQ(*base::read_file(plan.layout.token_file()), token);
  EXPECT_EQ(*base::read_file(plan.layout.simulated_seed()), seed);
  EXPECT_EQ(*base::read_file(plan.layout.simulated_root()), root);
}

TEST_F(InstallSteps, ChangedConfigurationRestartsTheVmmOnly) {
  run();
  const auto before = services.pids;
  plan.host_api_port = 10001;
  run();
  EXPECT_NE(services.pids["dstack-vmm-x"], before.at("dstack-vmm-x"));
  EXPECT_EQ(services.pids["dstack-auth-x"], before.at("dstack-auth-x"));
}

TEST_F(InstallSteps, ChangedWebhookPortRestartsTheWebhookOnly) {
  plan.kms_port = 0;  // with a KMS, whose measurement has that port in it, the flag is refused
  run();
  const auto before = services.pids;
  plan.auth_port = plan.state.auth_port = 8002;
  run();
  EXPECT_NE(services.pids["dstack-auth-x"], before.at("dstack-auth-x"));
  EXPECT_EQ(services.pids["dstack-vmm-x"], before.at("dstack-vmm-x"));
}

// An install that was killed between writing the configuration and restarting the VMM.
TEST_F(InstallSteps, AConfigurationThatTheVmmHasNotReadIsNoticed) {
  run();
  const auto before = services.pids;
  plan.host_api_port = 10001;
  run(5);  // up to the configuration
  EXPECT_EQ(services.pids, before);
  run();
  EXPECT_NE(services.pids["dstack-vmm-x"], before.at("dstack-vmm-x"));
  EXPECT_EQ(run(), 0);
}

TEST_F(InstallSteps, UnpinnedOnlyWhenAskedFor) {
  plan.os_image_hash.clear();
  run();
  EXPECT_FALSE(app::load_allowlist(plan.layout.allowlist())->allowlist.allow_any_os_image);
  plan.allow_any_image = true;
  run();
  EXPECT_TRUE(app::load_allowlist(plan.layout.allowlist())->allowlist.allow_any_os_image);
  plan.os_image_hash = std::string(64, 'a');
  plan.allow_any_image = false;
  run();
  EXPECT_FALSE(app::load_allowlist(plan.layout.allowlist())->allowlist.allow_any_os_image);
}

TEST_F(InstallSteps, BrokenAllowlistStopsAndStays) {
  run();
  ASSERT_TRUE(base::write_file_atomic(plan.layout.allowlist(), "{\"apps\": "));
  auto journal = Journal::open(plan.layout.journal());
  InstallContext context{plan, services};
  bool failed = false;
  for (const auto& step : install_steps(context)) {
    failed |= !run_step(step, *journal);
  }
  EXPECT_TRUE(failed);
  EXPECT_EQ(*base::read_file(plan.layout.allowlist()), "{\"apps\": ");
}

TEST_F(InstallSteps, BrokenSeedIsAnError) {
  run();
  ASSERT_TRUE(base::write_file_atomic(plan.layout.simulated_seed(), "zz"));
  EXPECT_FALSE(ensure_simulated_tee(plan.layout));
}

TEST_F(InstallSteps, FailedServiceIsReportedAndInTheJournal) {
  services.broken = "dstack-vmm-x";
  ASSERT_TRUE(ensure_state_directory(plan.layout));
  auto journal = Journal::open(plan.layout.journal());
  InstallContext context{plan, services};
  base::Error error;
  for (const auto& step : install_steps(context)) {
    if (auto applied = run_step(step, *journal); !applied) {
      error = applied.error();
    }
  }
  EXPECT_EQ(error.code, base::Code::service_failed);
  bool journaled = false;
  for (const auto& entry : journal->entries()) {
    journaled |= entry.kind == JournalEntry::Kind::service && entry.name == "dstack-vmm-x";
  }
  EXPECT_TRUE(journaled);
  EXPECT_TRUE(*load_state(plan.layout.state_file())) << "status and destroy know the names";
}

// A crash after any number of steps: purge leaves nothing, and so does one of a complete installation.
TEST_F(InstallSteps, PurgeFromEveryHalfMadeState) {
  for (std::size_t steps = 0; steps <= 8; ++steps) {
    const auto before = snapshot();
    run(steps);
    purge_all();
    EXPECT_EQ(snapshot(), before) << "after " << steps << " steps";
  }
}

TEST_F(InstallSteps, InstallGoesOnFromEveryHalfMadeState) {
  for (std::size_t steps = 0; steps <= 8; ++steps) {
    run(steps);
    run();
    EXPECT_EQ(run(), 0) << "after " << steps << " steps";
    purge_all();
    services.pids.clear();
  }
}

TEST_F(InstallSteps, PurgeKeepsForeignThings) {
  run();
  fs::create_directories(dir / "p/own");
  ASSERT_TRUE(base::write_file_atomic(plan.layout.config / "notes.txt", "mine"));
  ASSERT_TRUE(base::write_file_atomic(plan.layout.state / ".dstackup-state.json.0123.tmp", "half"));
  const auto journal = *Journal::read(plan.layout.journal());
  const auto removal = purge(plan.layout, journal);
  ASSERT_TRUE(removal);
  ASSERT_FALSE(removal->kept.empty());
  EXPECT_NE(removal->kept[0].find("notes.txt"), std::string::npos);
  EXPECT_TRUE(fs::exists(plan.layout.config / "notes.txt"));
  EXPECT_TRUE(fs::exists(dir / "p/own"));
  EXPECT_FALSE(fs::exists(plan.layout.state));
  EXPECT_FALSE(fs::exists(plan.layout.token_file()));
}

// A damaged or forged journal cannot make purge remove anything outside of the installation.
TEST_F(InstallSteps, PurgeStaysInside) {
  run();
  const auto outside = dir / "outside";
  ASSERT_TRUE(base::write_file_atomic(outside, "x"));
  fs::create_directories(dir / "tree");
  std::vector<JournalEntry> journal = *Journal::read(plan.layout.journal());
  journal.push_back({JournalEntry::Kind::file, outside.string(), ""});
  journal.push_back({JournalEntry::Kind::tree, (dir / "tree").string(), ""});
  journal.push_back({JournalEntry::Kind::tree, (dir / "p/../tree").string(), ""});
  ASSERT_TRUE(purge(plan.layout, journal));
  EXPECT_TRUE(fs::exists(outside));
  EXPECT_TRUE(fs::exists(dir / "tree"));
}

TEST_F(InstallSteps, PurgeTwice) {
  run();
  purge_all();
  const auto removal = purge(plan.layout, {});
  EXPECT_TRUE(removal);
}

TEST_F(InstallSteps, TakeDownKeepsTheStateForLater) {
  run();
  ASSERT_TRUE(remove_run_time(plan.layout));
  EXPECT_FALSE(fs::exists(plan.layout.run));
  EXPECT_FALSE(*load_state(plan.layout.state_file()));
  EXPECT_TRUE(*load_state(plan.layout.last_state_file()));
  ASSERT_TRUE(base::write_file_atomic(plan.layout.state_file(), "{"));
  ASSERT_TRUE(remove_run_time(plan.layout));
  EXPECT_FALSE(*load_state(plan.layout.state_file())) << "a corrupt file does not block the next install";
  EXPECT_TRUE(fs::exists(plan.layout.state_file().string() + ".corrupt"));
}

TEST_F(InstallSteps, PlanShowsEveryThingItMakes) {
  InstallContext context{plan, services};
  const auto text = plan_as_text(plan, install_steps(context));
  for (const auto& path : {plan.layout.token_file(), plan.layout.vmm_toml(), plan.layout.allowlist(),
                           plan.layout.state_file(), plan.layout.simulated_tee()}) {
    EXPECT_NE(text.find(path.string()), std::string::npos) << path;
  }
  EXPECT_NE(text.find("dstack-vmm-x"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir / "p"));
}

// What the plan says there is to do is what the steps then do, from nothing, when converged, and after a
// change.
TEST_F(InstallSteps, PendingIsWhatApplyDoes) {
  ASSERT_TRUE(ensure_state_directory(plan.layout));
  auto journal = Journal::open(plan.layout.journal());
  InstallContext context{plan, services};
  for (const int round : {1, 2, 3, 4}) {
    if (round == 3) {
      plan.host_api_port = 10002;
      plan.os_image_hash = std::string(64, 'd');
      fs::remove(plan.layout.token_file());
    }
    const auto steps = install_steps(context);
    std::map<std::string, std::string> pending;
    for (const auto& step : steps) {
      pending[step.name] = step.pending();
    }
    EXPECT_EQ(pending["dstack-vmm-x"], round == 1 ? "start" : round == 3 ? "restart" : "");
    for (const auto& step : steps) {
      const auto applied = run_step(step, *journal);
      ASSERT_TRUE(applied) << step.name;
      EXPECT_EQ(*applied, !pending[step.name].empty()) << step.name << " in round " << round;
    }
  }
}

}  // namespace
}  // namespace dstack::host
