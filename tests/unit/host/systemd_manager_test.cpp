#include "host/systemd_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/fs.h"
#include "host/unit_file.h"
#include "unit/host/fake_systemd.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Strings = std::vector<std::string>;

class SystemdManagerTest : public testing::Test {
 protected:
  SystemdManagerTest() : m_systemd((m_directory / "systemd").string()) {
    m_options.unit_directory = m_directory / "units";
    std::filesystem::create_directories(m_options.unit_directory / "multi-user.target.wants");
    m_options.address = m_systemd.address();
    m_options.call_timeout = milliseconds(2000);
    m_options.patience = milliseconds(200);
    m_systemd.behaviour().on_job = [](const std::string&, test::FakeSystemd::Unit& unit) {
      unit.text["ActiveState"] = "active";
      unit.times["InactiveExitTimestamp"] = UINT64_C(1) << 60;  // after any file
    };
    m_spec.name = "dstack-x";
    m_spec.description = "a service";
    m_spec.argv = {"/usr/bin/dstack-x", "--port", "1"};
    m_spec.start_timeout = milliseconds(50);
    m_spec.stop_timeout = milliseconds(50);
  }

  std::unique_ptr<ServiceManager> manager() { return make_systemd_manager(m_options); }
  std::filesystem::path unit_path() { return m_options.unit_directory / "dstack-x.service"; }
  Strings calls_since(std::size_t& mark) {
    auto calls = m_systemd.calls();
    calls.erase(calls.begin(), calls.begin() + static_cast<std::ptrdiff_t>(mark));
    mark += calls.size();
    return calls;
  }

  test::TempDir m_directory;
  test::FakeSystemd m_systemd;
  SystemdOptions m_options;
  ServiceSpec m_spec;
};

TEST_F(SystemdManagerTest, WritesEnablesReloadsStarts) {
  const auto started = manager()->start(m_spec);
  ASSERT_TRUE(started) << started.error().what();
  EXPECT_EQ(*base::read_file(unit_path()), *render_unit(m_spec));
  EXPECT_THAT(m_systemd.calls(),
              ElementsAre("EnableUnitFiles dstack-x.service", "Reload", "ResetFailedUnit dstack-x.service",
                          "StartUnit dstack-x.service"));
}

TEST_F(SystemdManagerTest, AnUnchangedActiveServiceIsLeftAlone) {
  ASSERT_TRUE(manager()->start(m_spec));
  const auto written = std::filesystem::last_write_time(unit_path());
  std::size_t mark = m_systemd.calls().size();
  ASSERT_TRUE(manager()->start(m_spec));
  EXPECT_THAT(calls_since(mark), IsEmpty());
  EXPECT_EQ(std::filesystem::last_write_time(unit_path()), written);

  m_spec.argv.push_back("--more");
  ASSERT_TRUE(manager()->start(m_spec));
  EXPECT_THAT(calls_since(mark),
              ElementsAre("Reload", "ResetFailedUnit dstack-x.service", "RestartUnit dstack-x.service"));
  ASSERT_TRUE(manager()->restart(m_spec));
  EXPECT_THAT(calls_since(mark),
              ElementsAre("ResetFailedUnit dstack-x.service", "RestartUnit dstack-x.service"));
}

TEST_F(SystemdManagerTest, AServiceOlderThanItsFileIsRestarted) {
  ASSERT_TRUE(manager()->start(m_spec));
  m_systemd.unit().times["InactiveExitTimestamp"] = 1000;
  m_systemd.unit().flags["NeedDaemonReload"] = 1;
  std::size_t mark = m_systemd.calls().size();
  ASSERT_TRUE(manager()->start(m_spec));
  EXPECT_THAT(calls_since(mark),
              ElementsAre("Reload", "ResetFailedUnit dstack-x.service", "RestartUnit dstack-x.service"));
}

TEST_F(SystemdManagerTest, TheEndOfAJobMayBeToldBeforeItsPath) {
  m_systemd.behaviour().signal_before_reply = true;
  EXPECT_TRUE(manager()->start(m_spec));
}

TEST_F(SystemdManagerTest, AFailedStartSaysWhyAndLeavesNothingRunning) {
  m_systemd.behaviour().job_result = "failed";
  m_systemd.behaviour().on_job = [](const std::string&, test::FakeSystemd::Unit& unit) {
    unit.text = {{"LoadState", "loaded"},
                 {"ActiveState", "activating"},
                 {"SubState", "auto-restart"},
                 {"Result", "exit-code"},
                 {"StatusText", "bind 127.0.0.1:8001 failed\x1b[31m"}};
    unit.integers = {{"ExecMainStatus", 3}, {"StatusErrno", 98}};
  };
  const auto started = manager()->start(m_spec);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, base::Code::service_failed);
  EXPECT_EQ(started.error().message, "the service dstack-x did not start");
  EXPECT_EQ(started.error().cause,
            "bind 127.0.0.1:8001 failed\\x1b[31m (exit code 3, Address already in use)");
  EXPECT_THAT(started.error().fix, HasSubstr("journalctl -u dstack-x.service"));
  EXPECT_THAT(m_systemd.calls(),
              ElementsAre("EnableUnitFiles dstack-x.service", "Reload", "ResetFailedUnit dstack-x.service",
                          "StartUnit dstack-x.service", "StopUnit dstack-x.service",
                          "DisableUnitFiles dstack-x.service", "Reload"));
}

TEST_F(SystemdManagerTest, AFailedRestartStaysEnabled) {
  ASSERT_TRUE(manager()->start(m_spec));
  m_systemd.behaviour().job_result = "timeout";
  m_systemd.behaviour().on_job = [](const std::string&, test::FakeSystemd::Unit& unit) {
    unit.text["ActiveState"] = "failed";
    unit.text["Result"] = "timeout";
  };
  const auto restarted = manager()->restart(m_spec);
  ASSERT_FALSE(restarted);
  EXPECT_THAT(restarted.error().cause, HasSubstr("not ready"));
  EXPECT_EQ(m_systemd.unit().text["UnitFileState"], "enabled");
}

TEST_F(SystemdManagerTest, ADoneJobIsNotYetAnActiveService) {
  m_systemd.behaviour().on_job = nullptr;  // a condition that does not hold ends with "done"
  const auto started = manager()->start(m_spec);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().cause, HasSubstr("systemd's job ended with 'done'"));
}

TEST_F(SystemdManagerTest, AJobThatNeverEndsIsGivenUp) {
  m_systemd.behaviour().job_ends = false;
  m_systemd.behaviour().on_job = nullptr;
  const auto before = std::chrono::steady_clock::now();
  const auto started = manager()->start(m_spec);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, base::Code::service_failed);
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(2));
}

TEST_F(SystemdManagerTest, ASystemdThatHangsIsGivenUp) {
  m_options.call_timeout = milliseconds(100);
  for (const char* method : {"Reload", "StartUnit", "EnableUnitFiles", "GetAll", "Subscribe"}) {
    m_systemd.behaviour().hangs = method;
    m_systemd.unit() = {};
    std::filesystem::remove(unit_path());
    const auto started = manager()->start(m_spec);
    ASSERT_FALSE(started) << method;
    EXPECT_TRUE(started.error().code == base::Code::timeout ||
                started.error().code == base::Code::service_failed)
        << method << ": " << started.error().what();
  }
}

TEST_F(SystemdManagerTest, AnswersOfAnotherTypeAreErrors) {
  for (const char* method : {"StartUnit", "GetAll"}) {
    m_systemd.behaviour().nonsense = method;
    EXPECT_FALSE(manager()->start(m_spec)) << method;
  }
}

TEST_F(SystemdManagerTest, RefusalsOfSystemdAreSaid) {
  m_systemd.behaviour().fails = "StartUnit";
  m_systemd.behaviour().error = "org.freedesktop.systemd1.UnitMasked";
  auto started = manager()->start(m_spec);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().fix, HasSubstr("systemctl unmask dstack-x.service"));

  m_systemd.behaviour().error = "org.freedesktop.DBus.Error.AccessDenied";
  started = manager()->start(m_spec);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, base::Code::permission);
  EXPECT_THAT(started.error().fix, HasSubstr("root"));
}

TEST_F(SystemdManagerTest, StoppingAnUnknownServiceIsSuccess) {
  m_systemd.behaviour().fails = "StopUnit";
  m_systemd.behaviour().error = "org.freedesktop.systemd1.NoSuchUnit";
  EXPECT_TRUE(manager()->stop("dstack-x"));
  EXPECT_TRUE(manager()->remove("dstack-x"));
  m_systemd.behaviour().error = "org.freedesktop.systemd1.NoSuchUnitX";
  EXPECT_FALSE(manager()->stop("dstack-x"));
}

TEST_F(SystemdManagerTest, RemoveTakesFileAndLinkAway) {
  ASSERT_TRUE(manager()->start(m_spec));
  const auto link = m_options.unit_directory / "multi-user.target.wants/dstack-x.service";
  std::filesystem::create_symlink(unit_path(), link);
  std::size_t mark = m_systemd.calls().size();
  ASSERT_TRUE(manager()->remove("dstack-x"));
  EXPECT_THAT(calls_since(mark), ElementsAre("StopUnit dstack-x.service", "DisableUnitFiles dstack-x.service",
                                             "Reload", "ResetFailedUnit dstack-x.service"));
  EXPECT_FALSE(std::filesystem::exists(unit_path()));
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(link)));
}

TEST_F(SystemdManagerTest, AUnitFileThatWasNotFinishedGoesAway) {
  const auto left = [&](const char* name) { return m_options.unit_directory / name; };
  for (const bool removing : {false, true}) {
    for (const char* name :
         {".dstack-x.service.00ff.tmp", ".dstack-x-2.service.00ff.tmp", ".dstack-x.service.swp"}) {
      std::ofstream(left(name)) << "x";
    }
    ASSERT_TRUE(removing ? manager()->remove("dstack-x") : manager()->start(m_spec));
    EXPECT_FALSE(std::filesystem::exists(left(".dstack-x.service.00ff.tmp")));
    EXPECT_TRUE(std::filesystem::exists(left(".dstack-x-2.service.00ff.tmp")));
    EXPECT_TRUE(std::filesystem::exists(left(".dstack-x.service.swp")));
  }
}

TEST_F(SystemdManagerTest, ForeignAndMaskedUnitsAreNotTouched) {
  std::ofstream(unit_path()) << "[Service]\nExecStart=/bin/true\n";
  EXPECT_EQ(manager()->start(m_spec).error().code, base::Code::service_manager);
  EXPECT_EQ(manager()->remove("dstack-x").error().code, base::Code::service_manager);
  std::filesystem::remove(unit_path());
  std::filesystem::create_symlink("/dev/null", unit_path());
  EXPECT_THAT(manager()->start(m_spec).error().fix, HasSubstr("systemctl unmask"));
  EXPECT_FALSE(manager()->remove("dstack-x"));
  EXPECT_EQ(std::filesystem::read_symlink(unit_path()), "/dev/null");
  EXPECT_THAT(m_systemd.calls(), IsEmpty());
}

TEST_F(SystemdManagerTest, StatesAndResults) {
  struct Case {
    std::map<std::string, std::string> text;
    ServiceState state;
    std::string result;
  };
  const std::vector<Case> cases = {
      {{{"LoadState", "not-found"}, {"ActiveState", "inactive"}}, ServiceState::unknown, ""},
      {{{"LoadState", "not-found"}, {"ActiveState", "active"}}, ServiceState::active, ""},
      {{{"LoadState", "loaded"}, {"ActiveState", "inactive"}, {"Result", "success"}},
       ServiceState::stopped,
       ""},
      {{{"ActiveState", "activating"}, {"SubState", "start"}}, ServiceState::starting, ""},
      {{{"ActiveState", "activating"}, {"SubState", "auto-restart"}, {"Result", "signal"}},
       ServiceState::waiting,
       "killed by signal 9 (Killed)"},
      {{{"ActiveState", "deactivating"}}, ServiceState::stopping, ""},
      {{{"ActiveState", "failed"}, {"Result", "start-limit-hit"}},
       ServiceState::failed,
       "it ended too often, not tried again"},
      {{{"ActiveState", "failed"}, {"Result", "protocol"}},
       ServiceState::failed,
       "it ended without saying that it is ready"},
      {{{"ActiveState", "failed"}, {"Result", "something-new"}}, ServiceState::failed, "something-new"},
  };
  m_systemd.unit().integers = {{"ExecMainStatus", 9}, {"StatusErrno", 5}};
  m_systemd.unit().numbers = {{"MainPID", 4711}, {"NRestarts", 2}};
  m_systemd.unit().times = {{"StateChangeTimestamp", 1'700'000'000'000'000}};
  for (const auto& [text, state, result] : cases) {
    m_systemd.unit().text = text;
    const auto is = manager()->status("dstack-x");
    ASSERT_TRUE(is) << is.error().what();
    EXPECT_EQ(is->state, state);
    EXPECT_EQ(is->result, result);
    EXPECT_EQ(is->pid, 4711);
    EXPECT_EQ(is->restarts, 2U);
    EXPECT_EQ(is->error_number, 5);
    EXPECT_EQ(is->since_unix, 1'700'000'000);
  }
}

// There is no file of that name where ours are, so it was stopped and disabled.
TEST_F(SystemdManagerTest, AUnitFromElsewhereIsNeitherStoppedNorRemoved) {
  m_systemd.unit().text["FragmentPath"] = "/usr/lib/systemd/system/sshd.service";
  m_systemd.unit().text["ActiveState"] = "active";
  for (const auto& done : {manager()->remove("sshd"), manager()->stop("sshd")}) {
    ASSERT_FALSE(done);
    EXPECT_THAT(done.error().what(), HasSubstr("/usr/lib/systemd/system/sshd.service"));
    EXPECT_FALSE(done.error().fix.empty());
  }
  EXPECT_THAT(m_systemd.calls(), IsEmpty());
  m_systemd.unit().text["FragmentPath"] = (m_options.unit_directory / "sshd.service").string();
  EXPECT_TRUE(manager()->remove("sshd")) << "its file was removed by hand, systemd has not noticed";
}

TEST_F(SystemdManagerTest, ShutDownStopsTheVmsOfThisInstallationOnly) {
  m_options.vms = "/var/lib/dstack/vm";
  m_systemd.listed = {"dstack-vm-a.service"};
  m_systemd.unit().text["WorkingDirectory"] = "/var/lib/dstack/vm/a";
  std::size_t mark = 0;
  ASSERT_TRUE(manager()->shut_down());
  EXPECT_THAT(calls_since(mark),
              ElementsAre("ListUnitsByPatterns", "StopUnit dstack-vm-a.service", "StopUnit dstack.slice"));
  for (const char* elsewhere : {"/var/lib/dstack/vm2/a", "/var/lib/dstack", ""}) {
    m_systemd.unit().text["WorkingDirectory"] = elsewhere;
    ASSERT_TRUE(manager()->shut_down());
    EXPECT_THAT(calls_since(mark), ElementsAre("ListUnitsByPatterns")) << elsewhere;
  }
}

TEST_F(SystemdManagerTest, NobodyAnswers) {
  m_options.address = "unix:path=" + (m_directory / "nobody").string();
  EXPECT_EQ(manager()->status("dstack-x").error().code, base::Code::connect_failed);
  EXPECT_FALSE(manager()->start(m_spec));
  EXPECT_EQ(manager()->start(ServiceSpec{}).error().code, base::Code::invalid_argument);
}

}  // namespace
}  // namespace dstack::host
