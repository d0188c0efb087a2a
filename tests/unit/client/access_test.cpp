#include "client/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "base/fs.h"
#include "host/layout.h"
#include "unit/temp_dir.h"

using namespace dstack;
using base::Code;
using client::resolve_access;
using testing::HasSubstr;

namespace {

class AccessTest : public testing::Test {
 protected:
  test::TempDir m_directory;
  std::string m_prefix = m_directory.path().string();
  host::Layout m_layout = host::Layout::make(m_prefix).value();

  void SetUp() override { ::unsetenv("DSTACK_VMM_TOKEN"); }
  void TearDown() override { ::unsetenv("DSTACK_VMM_TOKEN"); }

  void install() {
    ASSERT_TRUE(base::make_dirs(m_layout.state));
    ASSERT_TRUE(base::make_dirs(m_layout.config));
    host::InstallState state;
    state.prefix = m_layout.state;
    state.state_dir = m_layout.state;
    state.client_url = "http://127.0.0.1:9080";
    state.client_token_path = m_layout.token_file();
    state.allowlist_path = m_layout.allowlist();
    state.image = "dstack-0.1.0";
    state.platform = "simulated";
    state.auth_port = 8001;
    ASSERT_TRUE(host::save_state(m_layout.state_file(), state));
    ASSERT_TRUE(base::write_file_atomic(m_layout.token_file(), "filetoken\n", {.mode = 0600}));
  }
  client::AccessOptions options() { return {.host = {}, .prefix = m_prefix, .token = {}}; }
};

}  // namespace

TEST_F(AccessTest, TheInstallationSuppliesEverything) {
  install();
  const auto access = resolve_access(options());
  ASSERT_TRUE(access) << access.error().what();
  EXPECT_EQ(access->endpoint.to_string(), "http://127.0.0.1:9080");
  EXPECT_EQ(access->token, "filetoken");
  EXPECT_EQ(access->defaults.image, "dstack-0.1.0");
  EXPECT_EQ(access->defaults.allowlist, m_layout.allowlist());
  EXPECT_EQ(access->defaults.state_directory, m_layout.state);
}

TEST_F(AccessTest, TokenOrder) {
  install();
  auto with = options();
  ::setenv("DSTACK_VMM_TOKEN", "envtoken", 1);
  EXPECT_EQ(resolve_access(with)->token, "envtoken");
  with.token = "flagtoken";
  EXPECT_EQ(resolve_access(with)->token, "flagtoken");
  with.token = " ";
  EXPECT_EQ(resolve_access(with)->token, "filetoken") << "a blank --token switches the environment off";
  ::setenv("DSTACK_VMM_TOKEN", "", 1);
  with.token.reset();
  EXPECT_EQ(resolve_access(with)->token, "filetoken");
}

TEST_F(AccessTest, HostSwitchesTheInstallationOff) {
  install();
  auto with = options();
  with.host = "http://127.0.0.1:1";
  const auto access = resolve_access(with);
  ASSERT_TRUE(access);
  EXPECT_EQ(access->token, "");
  EXPECT_FALSE(access->defaults.image);
  EXPECT_FALSE(access->defaults.allowlist);
  EXPECT_FALSE(access->defaults.state_directory);
  with.host = "ftp://x";
  EXPECT_FALSE(resolve_access(with));
}

TEST_F(AccessTest, NotInstalledSaysWhatToRun) {
  const auto access = resolve_access(options());
  ASSERT_FALSE(access);
  EXPECT_EQ(access.error().code, Code::not_installed);
  EXPECT_THAT(access.error().fix, HasSubstr("dstackup install"));
  EXPECT_THAT(access.error().message, HasSubstr(m_prefix));
}

TEST_F(AccessTest, ACorruptStateFileIsNotAbsence) {
  install();
  ASSERT_TRUE(base::write_file_atomic(m_layout.state_file(), "{\"client_url\":"));
  const auto access = resolve_access(options());
  ASSERT_FALSE(access);
  EXPECT_EQ(access.error().code, Code::state_corrupt);
  EXPECT_THAT(access.error().what(), HasSubstr(m_layout.state_file().string()));
  EXPECT_FALSE(access.error().fix.empty());
  EXPECT_FALSE(client::install_defaults(options()));
}

TEST_F(AccessTest, AMissingTokenFileIsAnErrorUnlessATokenIsGiven) {
  install();
  std::filesystem::remove(m_layout.token_file());
  const auto access = resolve_access(options());
  ASSERT_FALSE(access);
  EXPECT_THAT(access.error().what(), HasSubstr(m_layout.token_file().string()));
  auto with = options();
  with.token = "t";
  EXPECT_TRUE(resolve_access(with));
}

TEST_F(AccessTest, AnUnreadableTokenFileSaysSudo) {
  install();
  if (::geteuid() != 0) {
    ASSERT_EQ(::chmod(m_layout.token_file().c_str(), 0), 0);
    const auto access = resolve_access(options());
    ASSERT_FALSE(access);
    EXPECT_EQ(access.error().code, Code::permission);
    EXPECT_THAT(access.error().fix, HasSubstr("sudo"));
    return;
  }
  // Root reads everything: become nobody for the look.
  ASSERT_EQ(::chmod(m_directory.path().c_str(), 0755), 0);
  ASSERT_EQ(::seteuid(65534), 0);
  const auto access = resolve_access(options());
  ASSERT_EQ(::seteuid(0), 0);
  ASSERT_FALSE(access);
  EXPECT_EQ(access.error().code, Code::permission) << access.error().what();
  EXPECT_THAT(access.error().fix, HasSubstr("sudo"));
}
