#include "base/trusted_path.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "unit/temp_dir.h"

using namespace dstack::base;
using dstack::test::TempDir;

namespace {

constexpr uid_t k_nobody = 65534;

void set_mode(const fs::path& path, mode_t mode) {
  ASSERT_EQ(::chmod(path.c_str(), mode), 0) << path;
}

class TrustedPath : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(make_dirs(inner)); }
  // The directory that is found, "" when all may be trusted.
  std::string found(const fs::path& path) const {
    const auto untrusted = find_untrusted_directory(path);
    return untrusted ? untrusted->directory.string() : "";
  }
  TempDir dir;
  fs::path outer = dir / "outer";
  fs::path inner = outer / "inner";
};

}  // namespace

TEST_F(TrustedPath, OwnDirectoriesBelowTmp) {
  EXPECT_EQ(found(inner), "");
  EXPECT_EQ(found(inner / "is/not/there"), "");
  EXPECT_EQ(found(inner.string() + "/"), "");
}

TEST_F(TrustedPath, WhereOthersCanWrite) {
  for (const mode_t mode : {0777U, 0775U, 0757U, 0722U}) {
    set_mode(outer, mode);
    EXPECT_EQ(found(inner), outer) << mode;
  }
  const auto untrusted = find_untrusted_directory(inner);
  EXPECT_EQ(untrusted->why, "can be changed by everybody (mode 722)");
}

TEST_F(TrustedPath, StickyWillDoAboveOnly) {
  set_mode(outer, 01777);
  EXPECT_EQ(found(inner), "");
  EXPECT_EQ(found(outer), outer);
}

TEST_F(TrustedPath, OfAnotherUser) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root";
  }
  ASSERT_EQ(::chown(outer.c_str(), k_nobody, k_nobody), 0);
  EXPECT_EQ(found(inner), outer);
  EXPECT_NE(find_untrusted_directory(inner)->why.find("65534"), std::string::npos);
}

TEST_F(TrustedPath, ThroughLinks) {
  const fs::path open = dir / "open";
  ASSERT_TRUE(make_dirs(open / "below"));
  set_mode(open, 0777);
  fs::create_directory_symlink("../open/below", outer / "link");
  fs::create_directory_symlink(outer / "link", dir / "second");
  EXPECT_EQ(found(outer / "link"), open);
  EXPECT_EQ(found(outer / "link/more"), open);
  EXPECT_EQ(found(dir / "second"), open);
  set_mode(open, 0755);
  EXPECT_EQ(found(dir / "second"), "");
  set_mode(open / "below", 01777);
  EXPECT_EQ(found(dir / "second/x"), "") << "nothing is there yet, and above a sticky one will do";
  EXPECT_EQ(found(dir / "second"), open / "below");
  fs::create_directory_symlink("loop", dir / "loop");
  EXPECT_EQ(found(dir / "loop/x"), "");
}

// Its owner could let it lead elsewhere at any time.
TEST_F(TrustedPath, ALinkOfAnotherUser) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root";
  }
  fs::create_directory_symlink(inner, dir / "link");
  EXPECT_EQ(found(dir / "link"), "");
  ASSERT_EQ(::lchown((dir / "link").c_str(), k_nobody, k_nobody), 0);
  EXPECT_EQ(found(dir / "link"), dir / "link");
}

TEST_F(TrustedPath, TheDirectoryOfAFile) {
  const auto file = inner / "file";
  EXPECT_FALSE(find_untrusted_parent(file));
  set_mode(inner, 01777);
  EXPECT_FALSE(find_untrusted_parent(file));
  set_mode(inner, 0777);
  ASSERT_TRUE(find_untrusted_parent(file));
  EXPECT_EQ(find_untrusted_parent(file)->directory, inner);
  EXPECT_NE(find_untrusted_parent(file)->fix.find("chmod go-w"), std::string::npos);
}
