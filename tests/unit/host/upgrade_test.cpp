#include "host/upgrade.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "base/fs.h"
#include "unit/temp_dir.h"

using namespace dstack;
namespace fs = std::filesystem;
using base::Code;
using base::Result;
using testing::HasSubstr;

namespace {

// A host whose services are one file that says which programs they run.
class UpgradeEngine : public testing::Test {
 protected:
  UpgradeEngine() {
    for (const auto* name : {"old", "new"}) {
      fs::create_directories(m_dir / name);
      for (const auto* program : {"dstackup", "dstack-auth", "dstack-vmm"}) {
        std::ofstream(m_dir / name / program) << name;
        fs::permissions(m_dir / name / program, static_cast<fs::perms>(0755));
      }
      const auto set = *host::inspect_programs(m_dir / name);
      EXPECT_TRUE(m_store.add(set));
      (std::string(name) == "old" ? m_old : m_new) = set.id;
    }
    EXPECT_TRUE(m_store.set_current(m_old));
    run(m_old);
  }

  void run(const std::string& id) const { std::ofstream(m_dir / "running") << id; }
  std::string running() const { return base::read_file(m_dir / "running").value_or(""); }
  bool pending() const { return fs::exists(m_dir / "upgrade.json"); }

  host::Upgrade engine() {
    return {m_store,
            m_dir / "upgrade.json",
            {[this](const std::string& id) -> Result<> {
               step("run " + id);
               if (id == m_does_not_start || m_nothing_starts) {
                 return base::fail(Code::service_failed, "it does not start");
               }
               run(id);
               step("ran " + id);
               return {};
             },
             [this]() -> Result<> {
               step("check");
               return m_sick ? Result<>(base::fail(Code::rpc, "the API does not answer")) : Result<>();
             },
             [this](std::string_view line) { m_report += std::string(line) + "\n"; }}};
  }
  void step(const std::string& what) {
    if (m_kill_at-- == 0) {
      ::raise(SIGKILL);
    }
    m_steps.push_back(what);
  }

  test::TempDir m_dir;
  host::ProgramStore m_store{host::Layout::make((m_dir / "prefix").string()).value()};
  std::string m_old, m_new;
  std::string m_does_not_start;
  bool m_nothing_starts = false;
  bool m_sick = false;
  int m_kill_at = -1;
  std::vector<std::string> m_steps;
  std::string m_report;
};

}  // namespace

// An install that chose the new programs and started nothing made them the current ones.
TEST_F(UpgradeEngine, SwitchesServicesThatRunAnotherSetThanTheCurrentOne) {
  ASSERT_TRUE(m_store.set_current(m_new));
  m_sick = true;
  EXPECT_FALSE(engine().switch_to(m_new, m_old));
  EXPECT_EQ(running(), m_old) << "back to what ran, not to what was chosen";
  EXPECT_EQ(m_store.current(), m_old);
  m_sick = false;
  ASSERT_TRUE(m_store.set_current(m_new));
  ASSERT_TRUE(engine().switch_to(m_new, m_old));
  EXPECT_EQ(running(), m_new);
  EXPECT_EQ(m_store.previous(), m_old);
  EXPECT_FALSE(pending());
}

TEST_F(UpgradeEngine, SwitchesAndKnowsTheWayBack) {
  const auto done = engine().switch_to(m_new);
  ASSERT_TRUE(done) << done.error().what();
  EXPECT_EQ(running(), m_new);
  EXPECT_EQ(m_store.current(), m_new);
  EXPECT_EQ(m_store.previous(), m_old);
  EXPECT_FALSE(pending());
  ASSERT_TRUE(engine().switch_to(m_old));
  EXPECT_EQ(running(), m_old);
  EXPECT_EQ(m_store.previous(), m_new);
}

TEST_F(UpgradeEngine, NewProgramsThatDoNotStartAreTakenBack) {
  m_does_not_start = m_new;
  const auto done = engine().switch_to(m_new);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Code::upgrade_failed);
  EXPECT_THAT(done.error().what(), HasSubstr("those of before run again: it does not start"));
  EXPECT_EQ(running(), m_old);
  EXPECT_EQ(m_store.current(), m_old);
  EXPECT_FALSE(m_store.previous());
  EXPECT_FALSE(pending());
}

TEST_F(UpgradeEngine, NewProgramsThatAreSickAreTakenBack) {
  m_sick = true;
  const auto done = engine().switch_to(m_new);
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().what(), HasSubstr("the API does not answer"));
  EXPECT_EQ(running(), m_old);
  EXPECT_FALSE(pending());
}

TEST_F(UpgradeEngine, WhenTheOldOnesDoNotComeBackEitherTheRecordStays) {
  m_nothing_starts = true;
  const auto done = engine().switch_to(m_new);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Code::upgrade_failed);
  EXPECT_THAT(done.error().what(), HasSubstr("do not come up either"));
  EXPECT_EQ(m_store.current(), m_old);
  EXPECT_TRUE(pending());
  m_nothing_starts = false;
  EXPECT_TRUE(engine().recover().value());
  EXPECT_EQ(running(), m_old);
  EXPECT_FALSE(pending());
}

TEST_F(UpgradeEngine, RecoverSaysWhatItUndid) {
  EXPECT_FALSE(engine().unfinished().value());
  ASSERT_TRUE(host::save_pending_upgrade(m_dir / "upgrade.json", {m_old, m_new}));
  ASSERT_TRUE(m_store.set_current(m_new));
  EXPECT_EQ(engine().unfinished().value()->to, m_new);
  EXPECT_EQ(m_store.current(), m_new) << "a look changes nothing";
  const auto undone = engine().recover().value();
  ASSERT_TRUE(undone);
  EXPECT_EQ(undone->from, m_old);
  EXPECT_EQ(undone->to, m_new);
  EXPECT_EQ(running(), m_old);
  // Nothing ran before: there is nothing to go back to.
  ASSERT_TRUE(host::save_pending_upgrade(m_dir / "upgrade.json", {"", m_new}));
  EXPECT_EQ(engine().unfinished().error().code, Code::no_previous);
  EXPECT_EQ(engine().recover().error().code, Code::no_previous);
}

TEST_F(UpgradeEngine, KilledAnywhereARepetitionEndsTheSame) {
  for (int kill_at = 0;; ++kill_at) {
    const auto child = ::fork();
    if (child == 0) {
      m_kill_at = kill_at;
      (void)engine().switch_to(m_new);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status)) {
      ASSERT_GE(kill_at, 3);
      break;
    }
    EXPECT_TRUE(pending());
    EXPECT_TRUE(engine().recover().value());
    EXPECT_EQ(running(), m_old) << kill_at;
    EXPECT_EQ(m_store.current(), m_old);
    EXPECT_FALSE(engine().recover().value());
    ASSERT_TRUE(engine().switch_to(m_new));
    EXPECT_EQ(running(), m_new);
    EXPECT_EQ(m_store.previous(), m_old);
    ASSERT_TRUE(engine().switch_to(m_old));
  }
}

TEST_F(UpgradeEngine, ARecordThatCannotBeReadIsSaid) {
  for (const auto* text : {"", "{", "[]", "{}", R"({"from":"a","to":"b"})", R"({"from":1,"to":2})"}) {
    std::ofstream(m_dir / "upgrade.json") << text;
    const auto recovered = engine().recover();
    ASSERT_FALSE(recovered) << text;
    EXPECT_EQ(recovered.error().code, Code::state_corrupt);
    EXPECT_THAT(recovered.error().what(), HasSubstr("upgrade.json"));
  }
}

TEST_F(UpgradeEngine, WithoutOwnCopiesThereIsNoWayBack) {
  fs::remove(m_store.root() / "current");
  EXPECT_EQ(engine().switch_to(m_new).error().code, Code::no_previous);
  EXPECT_FALSE(pending());
}
