// Which programs an installation runs and where it has them: directories that flags choose, programs that are
// run as they are, and back. Real programs, no VM.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "host/programs.h"
#include "host/state.h"
#include "integration/installed_host.h"

namespace fs = std::filesystem;
using namespace dstack;
using test::InstalledHost;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

namespace {

const fs::path k_libexec = "/usr/local/lib/programs";
const fs::path k_bin = "/usr/local/tools";
const fs::path k_named = "/srv/programs";

class InstallPrograms : public test::OnInstalledHost {
 protected:
  void SetUp() override {
    OnInstalledHost::SetUp();
    if (IsSkipped()) {
      return;
    }
    fs::create_directories(k_named);
    for (const auto* name : {"dstackup", "dstack-auth", "dstack-vmm"}) {
      fs::copy_file(test::sandbox_programs() / name, k_named / name);
    }
  }
  void TearDown() override {
    if (!test::sandbox_problem().empty()) {
      return;
    }
    OnInstalledHost::TearDown();
    std::error_code ignored;
    for (const auto& path : {k_libexec, k_bin, k_named}) {
      fs::remove_all(path, ignored);
    }
  }

  base::Output dstackup(std::vector<std::string> argv) const {
    argv.insert(argv.begin(), (test::sandbox_programs() / "dstackup").string());
    return host.run(argv);
  }
  void install(std::vector<std::string> more = {}) const {
    const auto done = host.run(host.install(more));
    ASSERT_EQ(done.exit_code, 0) << done.err;
  }
  std::vector<std::string> in_other_places() const {
    return {"--libexec-dir", k_libexec.string(), "--bin-dir", k_bin.string()};
  }
  std::vector<std::string> named() const {
    return {"--skip-managed-binaries", "--vmm-bin", (k_named / "dstack-vmm").string(), "--auth-bin",
            (k_named / "dstack-auth").string()};
  }
  // The directory that a service's program is in.
  static fs::path running(const std::string& program) {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::error_code error;
      const auto exe = fs::read_symlink(entry.path() / "exe", error);
      const auto command = base::read_file(entry.path() / "cmdline").value_or("");
      const bool service = program != "dstackup" || command.find("supervise") != std::string::npos;
      if (!error && exe.filename() == program && service) {
        return exe.parent_path();
      }
    }
    return "none";
  }
  // Steps of a printed plan with something to do.
  std::vector<std::string> to_do(std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--dry-run", "--json"});
    const auto dry = host.run(host.install(more));
    EXPECT_EQ(dry.exit_code, 0) << dry.err;
    std::vector<std::string> out;
    const auto plan = nlohmann::json::parse(dry.out);
    for (const auto& step : plan["steps"]) {
      if (step["todo"] != "") {
        out.push_back(step["name"].get<std::string>() + ": " + step["todo"].get<std::string>());
      }
    }
    return out;
  }
};

}  // namespace

TEST_F(InstallPrograms, DirectoriesOfTheFlagsAreUsedKeptAndTakenAway) {
  const auto clean = test::host_snapshot();
  auto flags = in_other_places();
  flags.emplace_back("--dry-run");
  const auto dry = host.run(host.install(flags));
  ASSERT_EQ(dry.exit_code, 0) << dry.err;
  EXPECT_THAT(dry.out,
              AllOf(HasSubstr((k_libexec / "versions").string()), HasSubstr((k_bin / "dstackup").string())));
  EXPECT_EQ(test::difference(clean, test::host_snapshot()), "");

  install(in_other_places());
  EXPECT_EQ(running("dstack-vmm").parent_path(), k_libexec / "versions");
  EXPECT_EQ(running("dstackup").parent_path(), k_libexec / "versions");
  EXPECT_EQ(fs::canonical(k_bin / "dstackup"), running("dstack-vmm") / "dstackup");
  EXPECT_FALSE(fs::exists(host.layout().libexec));
  EXPECT_FALSE(fs::exists(host.layout().bin / "dstackup"));
  EXPECT_EQ(host.not_converged(), "") << "the flags need not be given again";
  EXPECT_EQ(dstackup({"upgrade", "--from", test::sandbox_programs().string()}).out,
            "nothing to do, these programs run already\n");
  // A record that is lost does not matter: the journal names the places.
  ASSERT_TRUE(base::write_file_atomic(host.layout().state_file(), "broken"));
  EXPECT_EQ(host.take_away(), "");
  EXPECT_FALSE(fs::exists(k_libexec));
  EXPECT_FALSE(fs::exists(k_bin));
}

TEST_F(InstallPrograms, TheyMoveThereAndBack) {
  install();
  const auto set = host.state().programs_dir;
  EXPECT_THAT(to_do(in_other_places()),
              ElementsAre("programs: make", "record: change", "dstack-auth: restart", "dstack-vmm: restart",
                          "programs are well: note", "programs of before: remove"));
  const auto identity = host.identity();
  install(in_other_places());
  EXPECT_EQ(running("dstack-vmm"), k_libexec / "versions" / fs::path(set).filename()) << "the same programs";
  EXPECT_FALSE(fs::exists(host.layout().libexec));
  EXPECT_FALSE(fs::exists(host.layout().bin / "dstackup"));
  EXPECT_EQ(host.not_converged(), "");
  install({"--libexec-dir", host.layout().libexec.string(), "--bin-dir", host.layout().bin.string()});
  EXPECT_EQ(running("dstack-vmm"), set);
  EXPECT_EQ(host.state().libexec_dir + host.state().bin_dir, "");
  EXPECT_FALSE(fs::exists(k_libexec));
  EXPECT_FALSE(fs::exists(k_bin));
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.identity(), identity);
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallPrograms, WhatLiesBesideThemStays) {
  for (const auto& directory : {k_libexec, k_bin}) {
    fs::create_directories(directory);
    std::ofstream(directory / "mine") << "mine";
  }
  std::ofstream(k_bin / "dstack") << "mine too";
  install(in_other_places());
  EXPECT_EQ(*base::read_file(k_bin / "dstack"), "mine too");
  ASSERT_EQ(host.run(host.destroy()).exit_code, 0);
  for (const auto& directory : {k_libexec, k_bin}) {
    EXPECT_EQ(*base::read_file(directory / "mine"), "mine");
    EXPECT_FALSE(fs::exists(fs::symlink_status(directory / "dstackup")));
  }
  EXPECT_EQ(*base::read_file(k_bin / "dstack"), "mine too");
  EXPECT_FALSE(fs::exists(k_libexec / "versions"));
}

TEST_F(InstallPrograms, DirectoriesThatCannotBeUsedAreRefusedBeforeAnythingIsTouched) {
  install();
  const auto before = test::host_snapshot();
  const InstalledHost other{"/var/lib/other"};
  const auto refused = [&](std::vector<std::string> flags) {
    const auto output = other.run(other.install(flags));
    EXPECT_EQ(output.exit_code, 1) << flags[1];
    return output.err;
  };
  EXPECT_THAT(refused({"--libexec-dir", host.layout().libexec.string()}),
              HasSubstr("the installation in /var/lib/dstack"));
  EXPECT_THAT(refused({"--libexec-dir", "/var/lib/other/run/dstack/x"}), HasSubstr("lies in"));
  for (const auto* flag : {"--bin-dir", "--libexec-dir", "--share-dir"}) {
    EXPECT_THAT(refused({flag, "relative"}), HasSubstr(flag));
    EXPECT_THAT(refused({flag, "/"}), HasSubstr(flag));
  }
  EXPECT_EQ(test::difference(before, test::host_snapshot()), "");
}

TEST_F(InstallPrograms, ProgramsAreRunAsTheyAre) {
  install(named());
  EXPECT_EQ(running("dstack-vmm"), k_named);
  EXPECT_EQ(running("dstack-auth"), k_named);
  EXPECT_FALSE(fs::exists(host.layout().libexec));
  EXPECT_FALSE(fs::exists(host.layout().bin / "dstackup"));
  EXPECT_EQ(host.not_converged(), "") << "the flags need not be given again";
  for (const auto* verb : {"upgrade", "rollback"}) {
    const auto refused = dstackup({verb});
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_THAT(refused.err, AllOf(HasSubstr("--skip-managed-binaries"), HasSubstr("--programs-from")));
  }
  // Another file at the path.
  fs::remove(k_named / "dstack-vmm");
  fs::copy_file(test::sandbox_programs() / "dstack-vmm", k_named / "dstack-vmm");
  std::ofstream(k_named / "dstack-vmm", std::ios::app) << "2";
  EXPECT_THAT(to_do(), ElementsAre("record: change", "dstack-vmm: restart"));
  install();
  EXPECT_EQ(host.not_converged(), "");
  const auto old = host.run(host.install({"--bin-dir", k_bin.string()}));
  EXPECT_EQ(old.exit_code, 1);
  EXPECT_THAT(old.err, HasSubstr("--bin-dir"));

  install({"--programs-from", test::sandbox_programs().string()});
  EXPECT_EQ(running("dstack-vmm").parent_path(), host.layout().libexec / "versions");
  EXPECT_FALSE(host.state().skip_managed_binaries);
  EXPECT_EQ(host.not_converged(), "");
  install(named());
  EXPECT_EQ(running("dstack-vmm"), k_named);
  EXPECT_FALSE(fs::exists(host.layout().libexec)) << "copies that nothing runs";
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
  EXPECT_TRUE(fs::exists(k_named / "dstack-vmm"));
}

TEST_F(InstallPrograms, ProgramsThatAreNotThereAreRefusedBeforeAnythingIsTouched) {
  const auto before = test::host_snapshot();
  const auto unnamed = host.run(host.install({"--skip-managed-binaries"}));
  EXPECT_EQ(unnamed.exit_code, 1);
  EXPECT_THAT(unnamed.err,
              AllOf(HasSubstr("DS1654"), HasSubstr("no program dstack-vmm"), HasSubstr("--vmm-bin PATH")));
  const auto none = host.run(host.install({"--auth-bin", "/srv/none"}));
  EXPECT_THAT(none.err, AllOf(HasSubstr("DS1654"), HasSubstr("/srv/none")));
  const auto both = host.run(host.install({"--skip-managed-binaries", "--programs-from", "/srv"}));
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_EQ(test::difference(before, test::host_snapshot()), "");
}

TEST_F(InstallPrograms, AnUpgradeLeavesASingleNamedProgramAlone) {
  install({"--vmm-bin", (k_named / "dstack-vmm").string()});
  EXPECT_EQ(running("dstack-vmm"), k_named);
  EXPECT_EQ(running("dstack-auth").parent_path(), host.layout().libexec / "versions");
  const fs::path others = "/srv/others";
  fs::create_directories(others);
  for (const auto* name : {"dstackup", "dstack-auth", "dstack-vmm"}) {
    fs::copy_file(test::sandbox_programs() / name, others / name, fs::copy_options::overwrite_existing);
    std::ofstream(others / name, std::ios::app) << "2";
  }
  const auto dry = dstackup({"upgrade", "--from", others.string(), "--dry-run", "--json"});
  const auto plan = nlohmann::json::parse(dry.out);
  EXPECT_THAT(plan["restarts"], ElementsAre("dstack-auth"));
  EXPECT_THAT(plan["leavesAlone"], ElementsAre((k_named / "dstack-vmm").string()));
  const auto up = dstackup({"upgrade", "--from", others.string()});
  ASSERT_EQ(up.exit_code, 0) << up.err;
  EXPECT_THAT(up.err, HasSubstr((k_named / "dstack-vmm").string() + " is left alone"));
  EXPECT_EQ(running("dstack-vmm"), k_named);
  EXPECT_EQ(running("dstack-auth").filename(), host::inspect_programs(others)->id);
  EXPECT_EQ(host.not_converged(), "");
  install({"--vmm-bin", "managed"});
  EXPECT_EQ(running("dstack-vmm"), running("dstack-auth"));
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
  fs::remove_all(others);
}

TEST_F(InstallPrograms, ASupervisorMayBeNamed) {
  install({"--supervisor-bin", (k_named / "dstackup").string()});
  EXPECT_EQ(running("dstackup"), k_named);
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(running("dstackup"), k_named);
  ASSERT_EQ(host.run(host.destroy({})).exit_code, 0);
  install();
  EXPECT_EQ(running("dstackup"), k_named);
  ASSERT_EQ(host.run(host.destroy({})).exit_code, 0);
  install({"--supervisor-bin", "managed"});
  EXPECT_EQ(running("dstackup").parent_path(), host.layout().libexec / "versions");
  EXPECT_EQ(host.take_away(), "");
}
