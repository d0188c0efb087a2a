#include "host/layout.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <atomic>
#include <thread>

#include "base/fd.h"
#include "base/fs.h"
#include "host/journal.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

TEST(Layout, SystemLayout) {
  const auto layout = Layout::make(std::nullopt);
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->config, "/etc/dstack");
  EXPECT_EQ(layout->state_file(), "/var/lib/dstack/dstackup-state.json");
  EXPECT_EQ(layout->run, "/run/dstack");
  EXPECT_EQ(layout->libexec, "/usr/local/libexec/dstack");
}

TEST(Layout, PrefixRelocatesEverything) {
  const auto layout = Layout::make("/opt/dstack-a/");
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->bin, "/opt/dstack-a/bin");
  EXPECT_EQ(layout->config, "/opt/dstack-a/etc/dstack");
  EXPECT_EQ(layout->images(), "/opt/dstack-a/var/lib/dstack/images");
  EXPECT_EQ(layout->vms(), "/opt/dstack-a/var/lib/dstack/vm");
  EXPECT_EQ(layout->token_file(), "/opt/dstack-a/etc/dstack/vmm-auth-token");
  EXPECT_EQ(layout->run, "/opt/dstack-a/run/dstack");
}

TEST(Layout, BadPrefixes) {
  for (const char* bad : {"", "relative", "./x", "/", "//", "/a/../b", "/a/./b", "/..", "/a/..", "/a\nb",
                          "/a\x7f", "/a\xff", "/\xed\xa0\x80"}) {
    const auto layout = Layout::make(bad);
    ASSERT_FALSE(layout) << bad;
    EXPECT_EQ(layout.error().code, base::Code::layout);
    EXPECT_FALSE(layout.error().fix.empty());
  }
  EXPECT_TRUE(Layout::make("/a/..b/c..d"));
}

TEST(Layout, AFileWhereADirectoryWouldBe) {
  const test::TempDir dir;
  const auto layout = *Layout::make((dir / "p").string());
  EXPECT_TRUE(check_no_file_in_the_way(layout));
  ASSERT_TRUE(base::write_file_atomic(dir / "p", "x"));
  const auto found = check_no_file_in_the_way(layout);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, base::Code::layout);
  EXPECT_NE(found.error().what().find((dir / "p").string() + " is not a directory"), std::string::npos);
  EXPECT_FALSE(found.error().fix.empty());
}

// spec/host.md section 1.7, vectors marked [V].
TEST(Layout, InstanceFromPrefix) {
  EXPECT_EQ(*instance_name(std::nullopt, "/opt/dstack-a"), "dstack-a-da57dae6");
  EXPECT_EQ(*instance_name(std::nullopt, "/opt/dstack-test"), "dstack-test-ed3acef7");
  EXPECT_EQ(*instance_name(std::nullopt, std::nullopt), "");
  EXPECT_TRUE(instance_name(std::nullopt, "/opt/Ä--B!").value().starts_with("b-"));
  EXPECT_TRUE(instance_name(std::nullopt, "/opt/!!!").value().starts_with("prefix-"));
}

TEST(Layout, ExplicitInstance) {
  EXPECT_EQ(*instance_name("a.B_1-x", "/opt/x"), "a.B_1-x");
  for (const char* bad : {"", "a/b", "a b", "a%b", "ä", "a\n"}) {
    EXPECT_FALSE(instance_name(bad, std::nullopt)) << bad;
  }
  EXPECT_EQ(unit_name("dstack-vmm", ""), "dstack-vmm");
  EXPECT_EQ(unit_name("dstack-vmm", "x"), "dstack-vmm-x");
}

TEST(Layout, StateDirectoryComesWithItsJournal) {
  const test::TempDir dir;
  const auto layout = *Layout::make((dir / "a/b").string());
  // What a crashed earlier attempt leaves.
  fs::create_directories(dir / ".a.dstackup-new/junk");
  ASSERT_TRUE(ensure_state_directory(layout));
  const auto entries = Journal::read(layout.journal());
  ASSERT_TRUE(entries);
  std::vector<std::string> names;
  for (const auto& entry : *entries) {
    EXPECT_EQ(entry.kind, JournalEntry::Kind::directory);
    names.push_back(fs::path(entry.name).lexically_relative(dir.path()));
  }
  EXPECT_EQ(names, (std::vector<std::string>{"a", "a/b", "a/b/var", "a/b/var/lib", "a/b/var/lib/dstack"}));
  EXPECT_FALSE(fs::exists(dir / ".a.dstackup-new"));
  EXPECT_FALSE(fs::exists(layout.state / "junk"));
  ASSERT_TRUE(ensure_state_directory(layout));
  EXPECT_EQ(Journal::read(layout.journal())->size(), 5U);
}

TEST(Layout, AStagingDirectoryThatIsBeingMadeIsNotDiscarded) {
  const test::TempDir dir;
  const auto layout = *Layout::make((dir / "a").string());
  const auto staging = dir / ".a.dstackup-new";
  fs::create_directories(staging / "junk");
  {
    // As the install that makes it.
    const base::Fd other(::open(staging.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_EQ(::flock(other.get(), LOCK_EX), 0);
    ASSERT_TRUE(discard_unfinished_state_directory(layout));
    EXPECT_TRUE(fs::exists(staging / "junk"));
  }
  ASSERT_TRUE(discard_unfinished_state_directory(layout));
  EXPECT_FALSE(fs::exists(staging));
  ASSERT_TRUE(discard_unfinished_state_directory(layout));
}

TEST(Layout, ManyMakeTheStateDirectoryAtOnce) {
  for (int round = 0; round < 20; ++round) {
    const test::TempDir dir;
    const auto layout = *Layout::make((dir / "a/b").string());
    std::vector<std::jthread> makers;
    std::atomic<int> made = 0;
    for (int i = 0; i < 4; ++i) {
      makers.emplace_back([&, i] {
        made += (i % 2 == 0 ? ensure_state_directory(layout) : discard_unfinished_state_directory(layout))
                    .has_value();
      });
    }
    makers.clear();
    EXPECT_EQ(made, 4);
    EXPECT_EQ(Journal::read(layout.journal())->size(), 5U);
    EXPECT_FALSE(fs::exists(dir / ".a.dstackup-new"));
  }
}

TEST(Layout, ExistingDirectoriesAreNotOurs) {
  const test::TempDir dir;
  const auto layout = *Layout::make(dir.path().string());
  fs::create_directories(dir / "var/lib");
  ASSERT_TRUE(ensure_state_directory(layout));
  const auto entries = Journal::read(layout.journal());
  ASSERT_EQ(entries->size(), 1U);
  EXPECT_EQ(entries->front().name, layout.state);
}

}  // namespace
}  // namespace dstack::host
