#include "host/program_step.h"

#include <gmock/gmock.h>

#include <fstream>

#include "base/fs.h"
#include "host/upgrade.h"
#include "unit/temp_dir.h"

using namespace dstack;
namespace fs = std::filesystem;
using testing::HasSubstr;
using Kind = host::JournalEntry::Kind;

namespace {

class NoServices : public host::ServiceManager {
 public:
  std::string kind() const override { return "none"; }
  std::string description() const override { return "none"; }
  base::Result<> start(const host::ServiceSpec&) override { return {}; }
  base::Result<> restart(const host::ServiceSpec&) override { return {}; }
  base::Result<> stop(const std::string&) override { return {}; }
  base::Result<> remove(const std::string&) override { return {}; }
  base::Result<host::ServiceStatus> status(const std::string&) override { return host::ServiceStatus{}; }
  base::Result<std::vector<std::string>> logs(const std::string&, std::size_t) override {
    return std::vector<std::string>();
  }
  base::Result<> shut_down() override { return {}; }
};

class ProgramStep : public testing::Test {
 protected:
  ProgramStep() {
    fs::create_directories(m_layout.state);
    std::ofstream(m_layout.state_file()) << "{}";
    make("own", "1");
    make("other", "22");
  }
  fs::path make(const std::string& name, const std::string& content) const {
    fs::create_directories(m_dir / name);
    for (const auto* program : {"dstackup", "dstack", "dstack-auth", "dstack-vmm"}) {
      std::ofstream(m_dir / name / program) << content;
      fs::permissions(m_dir / name / program, static_cast<fs::perms>(0755));
    }
    return m_dir / name;
  }
  host::ProgramChoice choose(const std::optional<std::string>& from = {}) const {
    return host::choose_programs(m_layout, from, m_dir / "own");
  }
  // What install does with a choice; the services come up unless `fail`.
  bool install(const host::ProgramChoice& choice, bool fail = false) {
    m_plan.layout = m_layout;
    m_plan.programs = choice.set;
    host::InstallContext context{m_plan, m_services};
    const auto put = host::programs_step(context);
    const auto applied = put.apply();
    EXPECT_TRUE(applied) << applied.error().what();
    if (fail) {
      return *applied;
    }
    const auto well = host::programs_well_step(context).apply();
    EXPECT_TRUE(well) << well.error().what();
    EXPECT_EQ(host::programs_step(context).pending(), "");
    EXPECT_EQ(host::programs_well_step(context).pending(), "");
    return *applied || *well;
  }
  std::string id_of(const std::string& name) const { return host::inspect_programs(m_dir / name)->id; }

  test::TempDir m_dir;
  host::Layout m_layout = host::Layout::make((m_dir / "prefix").string()).value();
  host::ProgramStore m_store{m_layout};
  NoServices m_services;
  host::InstallPlan m_plan;
};

}  // namespace

TEST_F(ProgramStep, TheFirstInstallTakesWhatLiesBesideIt) {
  const auto choice = choose();
  ASSERT_TRUE(choice.set);
  EXPECT_EQ(choice.directory, m_dir / "own");
  EXPECT_TRUE(install(choice));
  EXPECT_EQ(m_store.current(), id_of("own"));
  EXPECT_FALSE(m_store.previous());
  EXPECT_EQ(fs::canonical(m_layout.bin / "dstack"), m_store.directory(id_of("own")) / "dstack");
  EXPECT_FALSE(fs::exists(m_layout.pending_upgrade()));
  EXPECT_FALSE(install(choose()));
}

TEST_F(ProgramStep, ALaterOneKeepsThemAndSaysSo) {
  install(choose());
  make("own", "a rebuilt one");
  const auto choice = choose();
  ASSERT_TRUE(choice.set);
  EXPECT_EQ(choice.set->id, m_store.current());
  EXPECT_THAT(choice.note, HasSubstr("dstackup upgrade"));
  EXPECT_FALSE(install(choice));
}

TEST_F(ProgramStep, AfterADestroyThoseBesideItAreTakenAgain) {
  install(choose());
  make("own", "a rebuilt one");
  fs::remove(m_layout.state_file());
  EXPECT_EQ(choose().directory, m_dir / "own");
}

TEST_F(ProgramStep, ADirectoryOfProgramsChangesThem) {
  install(choose());
  const auto first = m_store.current();
  EXPECT_TRUE(install(choose((m_dir / "other").string())));
  EXPECT_EQ(m_store.current(), id_of("other"));
  EXPECT_EQ(m_store.previous(), first);
}

TEST_F(ProgramStep, ProgramsThatDoNotComeUpAreNotKept) {
  // From the very first install on.
  install(choose((m_dir / "other").string()), /*fail=*/true);
  EXPECT_EQ(choose().directory, m_dir / "own");
  install(choose());
  EXPECT_EQ(m_store.current(), id_of("own"));
  EXPECT_FALSE(m_store.previous());
  // And when others ran well before.
  install(choose((m_dir / "other").string()), /*fail=*/true);
  EXPECT_EQ(m_store.current(), id_of("other"));
  const auto back = choose();
  EXPECT_EQ(back.set->id, id_of("own"));
  EXPECT_THAT(back.note, HasSubstr("those of before"));
  EXPECT_TRUE(install(back));
  EXPECT_EQ(m_store.current(), id_of("own"));
  EXPECT_FALSE(fs::exists(m_layout.pending_upgrade()));
}

TEST_F(ProgramStep, ProgramsChosenWithNoStartStayChosen) {
  const auto configure = [&](const host::ProgramChoice& choice) {
    m_plan.layout = m_layout;
    m_plan.programs = choice.set;
    m_plan.start = false;
    host::InstallContext context{m_plan, m_services};
    const auto applied = host::programs_step(context).apply();
    EXPECT_TRUE(applied) << applied.error().what();
    m_plan.start = true;
  };
  install(choose());
  configure(choose((m_dir / "other").string()));
  EXPECT_FALSE(fs::exists(m_layout.pending_upgrade()));
  EXPECT_EQ(m_store.current(), id_of("other"));
  EXPECT_EQ(m_store.previous(), id_of("own")) << "for a rollback";
  const auto next = choose();
  EXPECT_EQ(next.set->id, id_of("other"));
  EXPECT_FALSE(install(next));
  EXPECT_EQ(m_store.current(), id_of("other"));
  // A change that failed before does not count any more either.
  install(choose((m_dir / "own").string()), /*fail=*/true);
  configure(choose((make("third", "333")).string()));
  EXPECT_EQ(choose().set->id, id_of("third"));
  EXPECT_EQ(m_store.previous(), id_of("other"));
}

TEST_F(ProgramStep, IncompleteOnesAreNoSet) {
  fs::remove(m_dir / "other/dstack-vmm");
  const auto choice = choose((m_dir / "other").string());
  EXPECT_FALSE(choice.set);
  EXPECT_EQ(choice.directory, m_dir / "other");
}

TEST_F(ProgramStep, SomebodyElsesCommandsStay) {
  fs::create_directories(m_layout.bin);
  std::ofstream(m_layout.bin / "dstack") << "not ours";
  const auto choice = choose();
  install(choice);
  EXPECT_EQ(base::read_file(m_layout.bin / "dstack").value(), "not ours");
  EXPECT_TRUE(fs::is_symlink(m_layout.bin / "dstackup"));
  host::InstallContext context{m_plan, m_services};
  for (const auto& entry : host::programs_step(context).creates) {
    EXPECT_NE(entry.name, (m_layout.bin / "dstack").string());
  }
}

TEST_F(ProgramStep, SaysWhatItWillMake) {
  m_plan.layout = m_layout;
  m_plan.programs = choose().set;
  host::InstallContext context{m_plan, m_services};
  const auto step = host::programs_step(context);
  EXPECT_EQ(step.pending(), "make");
  const auto makes = [&](Kind kind, const fs::path& path) {
    return std::ranges::any_of(
        step.creates, [&](const auto& entry) { return entry.kind == kind && entry.name == path.string(); });
  };
  EXPECT_TRUE(makes(Kind::directory, m_layout.libexec));
  EXPECT_TRUE(makes(Kind::tree, m_store.versions()));
  EXPECT_TRUE(makes(Kind::file, m_layout.libexec / "current"));
  EXPECT_TRUE(makes(Kind::directory, m_layout.bin));
  EXPECT_TRUE(makes(Kind::file, m_layout.bin / "dstackup"));
  EXPECT_TRUE(makes(Kind::file, m_layout.pending_upgrade()));
}
