#include "auth/allowlist_cache.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include "unit/auth/temp_allowlist.h"

namespace dstack::auth {
namespace {

using testing::HasSubstr;

// A clock far ahead of the file's stamps: the file counts as settled at once.
timespec much_later() {
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  now.tv_sec += 60;
  return now;
}

TEST(AllowlistCache, UnchangedFileIsParsedOnce) {
  test::TempAllowlist file;
  file.write(R"({"gatewayAppId":"one"})");
  AllowlistCache cache(file.path(), false, much_later);
  const auto first = cache.get();
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(cache.get(), first);
  }
  EXPECT_EQ(cache.loads(), 1u);
}

TEST(AllowlistCache, EveryReplacementIsSeenByTheNextCall) {
  test::TempAllowlist file;
  AllowlistCache cache(file.path());
  for (int i = 0; i < 300; ++i) {
    // The same size each time, and far faster than time stamps advance.
    const auto text = std::to_string(1000 + i);
    file.write(R"({"gatewayAppId":")" + text + "\"}");
    const auto snapshot = cache.get();
    ASSERT_TRUE(snapshot->allowlist);
    ASSERT_EQ(snapshot->allowlist->gateway_app_id, text);
  }
}

TEST(AllowlistCache, ChangesInPlaceAreSeenToo) {
  test::TempAllowlist file;
  AllowlistCache cache(file.path());
  for (int i = 0; i < 100; ++i) {
    const auto text = std::to_string(1000 + i);
    std::ofstream(file.path()) << R"({"gatewayAppId":")" << text << "\"}";
    ::chmod(file.path().c_str(), 0644);
    ASSERT_EQ(cache.get()->allowlist->gateway_app_id, text);
  }
}

TEST(AllowlistCache, AFileThatHasJustChangedIsReadAgainUntilItIsSettled) {
  test::TempAllowlist file;
  file.write("{}");
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  AllowlistCache cache(file.path(), false, [&] { return now; });
  cache.get();
  cache.get();
  EXPECT_EQ(cache.loads(), 2u);
  now.tv_sec += 1;
  cache.get();
  cache.get();
  EXPECT_EQ(cache.loads(), 3u);
}

TEST(AllowlistCache, HoldersKeepTheirVersion) {
  test::TempAllowlist file;
  file.write(R"({"gatewayAppId":"old"})");
  AllowlistCache cache(file.path());
  const auto old = cache.get();
  file.write(R"({"gatewayAppId":"new"})");
  EXPECT_EQ(cache.get()->allowlist->gateway_app_id, "new");
  EXPECT_EQ(old->allowlist->gateway_app_id, "old");
}

TEST(AllowlistCache, WhatCannotBeUsedIsAnErrorAndRecoveryIsImmediate) {
  test::TempAllowlist file;
  AllowlistCache cache(file.path());
  EXPECT_EQ(cache.get()->error.code, base::Code::not_found);
  file.write("");
  EXPECT_EQ(cache.get()->error.code, base::Code::bad_allowlist);
  file.write("{");
  EXPECT_EQ(cache.get()->error.code, base::Code::bad_allowlist);
  file.write(R"({"osImages":null})");
  EXPECT_EQ(cache.get()->error.code, base::Code::bad_allowlist);
  file.write("{}");
  EXPECT_TRUE(cache.get()->allowlist);
  for (const mode_t mode : {0664u, 0646u, 0666u}) {
    ::chmod(file.path().c_str(), mode);
    EXPECT_EQ(cache.get()->error.code, base::Code::unsafe_allowlist) << mode;
  }
  ::chmod(file.path().c_str(), 0644);
  EXPECT_TRUE(cache.get()->allowlist);
  std::filesystem::remove(file.path());
  EXPECT_FALSE(cache.get()->allowlist);
  std::filesystem::create_directory(file.path());
  EXPECT_FALSE(cache.get()->allowlist);
  std::filesystem::remove(file.path());
  std::filesystem::create_symlink("/etc/passwd", file.path());
  EXPECT_EQ(cache.get()->error.code, base::Code::unsafe_allowlist);
}

TEST(AllowlistCache, AnotherOwnerIsRefused) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root to give a file away";
  }
  test::TempAllowlist file;
  file.write("{}");
  AllowlistCache cache(file.path());
  EXPECT_TRUE(cache.get()->allowlist);
  ASSERT_EQ(::chown(file.path().c_str(), 65534, 65534), 0);
  EXPECT_EQ(cache.get()->error.code, base::Code::unsafe_allowlist);
}

TEST(AllowlistCache, ABrokenFileIsNotParsedOnEveryRequest) {
  test::TempAllowlist file;
  file.write("{");
  AllowlistCache cache(file.path(), false, much_later);
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(cache.get()->allowlist);
  }
  EXPECT_EQ(cache.loads(), 1u);
}

TEST(AllowlistCache, StrictCanBeForced) {
  test::TempAllowlist file;
  file.write("{}");
  EXPECT_FALSE(AllowlistCache(file.path()).get()->allowlist->strict);
  EXPECT_TRUE(AllowlistCache(file.path(), true).get()->allowlist->strict);
}

}  // namespace
}  // namespace dstack::auth
