#include "guest/host_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "unit/guest/temp_dir.h"

namespace dstack::guest {
namespace {

using base::Code;
using testing::HasSubstr;
namespace fs = std::filesystem;

class HostShare : public testing::Test {
 protected:
  HostShare() {
    m_dir.write("share/app-compose.json", "{\"a\":1}");
    m_dir.write("share/.sys-config.json", "{}");
  }
  base::Result<> copy() { return copy_host_share(m_dir / "share", m_dir / "copy"); }
  void expect_refused(Code code, const char* text) {
    const auto copied = copy();
    ASSERT_FALSE(copied.has_value());
    EXPECT_EQ(copied.error().code, code);
    EXPECT_THAT(copied.error().what(), HasSubstr(text));
  }
  TempDir m_dir;
};

TEST_F(HostShare, CopiesKnownFilesAndNothingElse) {
  m_dir.write("share/.user-config", "user");
  m_dir.write("share/evil.sh", "rm");
  m_dir.write("share/.appkeys.json", "{\"k256_key\":\"00\"}");
  ASSERT_TRUE(copy().has_value());
  EXPECT_EQ(base::read_file(m_dir / "copy/app-compose.json").value(), "{\"a\":1}");
  EXPECT_EQ(base::read_file(m_dir / "copy/.user-config").value(), "user");
  EXPECT_FALSE(fs::exists(m_dir / "copy/evil.sh"));
  EXPECT_FALSE(fs::exists(m_dir / "copy/.appkeys.json"));
  struct stat info{};
  ASSERT_EQ(::stat((m_dir / "copy/app-compose.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
}

TEST_F(HostShare, ALaterChangeOfTheSourceDoesNotReachTheCopy) {
  ASSERT_TRUE(copy().has_value());
  m_dir.write("share/app-compose.json", "changed");
  EXPECT_EQ(base::read_file(m_dir / "copy/app-compose.json").value(), "{\"a\":1}");
}

TEST_F(HostShare, RefusesASymlink) {
  fs::remove(m_dir / "share/app-compose.json");
  fs::create_symlink("/proc/self/environ", m_dir / "share/app-compose.json");
  expect_refused(Code::host_share, "app-compose.json in the host share is a symlink");
}

TEST_F(HostShare, RefusesASymlinkUnderAnOptionalName) {
  fs::create_symlink("nowhere", m_dir / "share/.instance_info");
  expect_refused(Code::host_share, ".instance_info");
}

TEST_F(HostShare, RefusesAFifoWithoutWaiting) {
  ASSERT_EQ(::mkfifo((m_dir / "share/.user-config").c_str(), 0600), 0);
  expect_refused(Code::host_share, ".user-config in the host share is not a regular file");
}

TEST_F(HostShare, RefusesADirectory) {
  fs::create_directory(m_dir / "share/.encrypted-env");
  expect_refused(Code::host_share, ".encrypted-env in the host share is not a regular file");
}

TEST_F(HostShare, RefusesASparseTerabyte) {
  m_dir.write("share/.user-config", "");
  fs::resize_file(m_dir / "share/.user-config", std::uint64_t{1} << 40);
  expect_refused(Code::too_large, ".user-config");
}

TEST_F(HostShare, LimitsEachFile) {
  for (const auto& file : share_files()) {
    TempDir dir;
    dir.write("share/app-compose.json", "{}");
    dir.write("share/.sys-config.json", "{}");
    dir.write("share/" + std::string(file.name), "");
    fs::resize_file(dir / ("share/" + std::string(file.name)), file.limit + 1);
    const auto copied = copy_host_share(dir / "share", dir / "copy");
    ASSERT_FALSE(copied.has_value()) << file.name;
    EXPECT_EQ(copied.error().code, Code::too_large) << file.name;
  }
}

TEST_F(HostShare, TakesAFileOfExactlyItsLimit) {
  m_dir.write("share/.instance_info", std::string(10 * 1024, ' '));
  EXPECT_TRUE(copy().has_value());
}

TEST_F(HostShare, NamesAMissingRequiredFile) {
  fs::remove(m_dir / "share/.sys-config.json");
  expect_refused(Code::not_found, "the host share has no .sys-config.json");
}

TEST_F(HostShare, RefusesAnExistingTarget) {
  fs::create_directory(m_dir / "copy");
  EXPECT_FALSE(copy().has_value());
}

}  // namespace
}  // namespace dstack::guest
