#include "host/named_programs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using base::Code;
using testing::AllOf;
using testing::HasSubstr;

class NamedProgramsTest : public testing::Test {
 protected:
  NamedProgramsTest() {
    for (const auto* name : {"dstack-vmm", "dstack-auth", "dstackup"}) {
      make(name);
    }
  }
  std::string make(const std::string& name, const std::string& content = "x") const {
    std::ofstream(m_dir / name) << content;
    fs::permissions(m_dir / name, fs::perms(0755));
    return path(name);
  }
  std::string path(const std::string& name) const { return (m_dir / name).string(); }
  NamedPrograms choose(const ProgramFlags& flags) const {
    const auto out = choose_named_programs(flags, m_known);
    EXPECT_TRUE(out) << out.error().what();
    return out ? *out : NamedPrograms{};
  }
  // What a record says after these were installed.
  void installed(const NamedPrograms& named) {
    m_known = InstallState{};
    m_known->skip_managed_binaries = named.all;
    m_known->vmm_bin = named.vmm;
    m_known->auth_bin = named.auth;
    m_known->supervisor_bin = named.supervisor;
  }
  static base::Error refused(const ProgramFlags& flags, const std::optional<InstallState>& known = {}) {
    const auto out = choose_named_programs(flags, known);
    EXPECT_FALSE(out);
    return out ? base::Error{} : out.error();
  }

  test::TempDir m_dir;
  std::optional<InstallState> m_known;
};

TEST_F(NamedProgramsTest, WithoutFlagsAllAreTheInstallationsOwn) {
  const auto named = choose({});
  EXPECT_FALSE(named.all);
  EXPECT_EQ(named.vmm + named.auth + named.supervisor, "");
}

TEST_F(NamedProgramsTest, ASingleOneStaysUntilItIsTakenBack) {
  installed(choose({.vmm = path("dstack-vmm")}));
  EXPECT_EQ(choose({}).vmm, path("dstack-vmm"));
  EXPECT_EQ(choose({}).auth, "");
  EXPECT_EQ(choose({.from = "/somewhere"}).vmm, path("dstack-vmm"))
      << "another set is no word about this one";
  EXPECT_EQ(choose({.vmm = "managed"}).vmm, "");
  installed(choose({.supervisor = path("dstackup")}));
  EXPECT_EQ(choose({}).supervisor, path("dstackup"));
  EXPECT_EQ(choose({.supervisor = "managed"}).supervisor, "");
}

TEST_F(NamedProgramsTest, AllStayUntilThereAreProgramsToCopy) {
  installed(choose({.skip_managed = true, .vmm = path("dstack-vmm"), .auth = path("dstack-auth")}));
  const auto again = choose({});
  EXPECT_TRUE(again.all);
  EXPECT_EQ(again.vmm, path("dstack-vmm"));
  EXPECT_EQ(again.auth, path("dstack-auth"));
  const auto other = make("other-vmm");
  EXPECT_EQ(choose({.vmm = other}).vmm, other);
  EXPECT_EQ(choose({.vmm = other}).auth, path("dstack-auth"));
  EXPECT_THAT(refused({.vmm = "managed"}, m_known).fix, HasSubstr("--programs-from"));
  const auto back = choose({.from = "/somewhere"});
  EXPECT_FALSE(back.all);
  EXPECT_EQ(back.vmm + back.auth, "");
}

TEST_F(NamedProgramsTest, NamesAreLookedUpWhereToolsAre) {
  EXPECT_EQ(choose({.vmm = "true"}).vmm, "/usr/bin/true");
  const auto error = refused({.vmm = "dstack-vmm-that-is-not-there"});
  EXPECT_EQ(error.code, Code::programs);
  EXPECT_THAT(error.message, AllOf(HasSubstr("dstack-vmm-that-is-not-there"), HasSubstr("/usr/bin")));
  EXPECT_THAT(error.fix, HasSubstr("--vmm-bin PATH"));
}

TEST_F(NamedProgramsTest, WhatIsNoProgramIsRefused) {
  std::ofstream(m_dir / "text") << "x";
  for (const auto& bad : {path("text"), path("none"), m_dir.path().string()}) {
    EXPECT_THAT(refused({.auth = bad}).message, HasSubstr("--auth-bin " + bad + " is not a program"));
  }
}

TEST_F(NamedProgramsTest, AnotherFileAtThePathHasAnotherMark) {
  const auto before = program_mark(path("dstack-vmm"));
  EXPECT_EQ(program_mark(path("dstack-vmm")), before);
  make("dstack-vmm", "longer");
  EXPECT_NE(program_mark(path("dstack-vmm")), before);
  EXPECT_EQ(program_mark(path("none")), "");
}

TEST_F(NamedProgramsTest, ThereIsNothingToUpgradeWhereNothingIsCopied) {
  installed(choose({.vmm = path("dstack-vmm")}));
  EXPECT_TRUE(require_managed_programs(*m_known, "upgrade"));
  installed(choose({.skip_managed = true, .vmm = path("dstack-vmm"), .auth = path("dstack-auth")}));
  const auto refused = require_managed_programs(*m_known, "upgrade");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("upgrade"), HasSubstr(path("dstack-vmm"))));
  EXPECT_THAT(refused.error().fix, HasSubstr("--programs-from"));
}

}  // namespace
}  // namespace dstack::host
