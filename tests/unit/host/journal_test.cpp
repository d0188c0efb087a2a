#include "host/journal.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using Kind = JournalEntry::Kind;

TEST(Journal, RecordsInOrderAndOnce) {
  const test::TempDir dir;
  const auto path = dir / "journal";
  {
    auto journal = Journal::open(path);
    ASSERT_TRUE(journal);
    ASSERT_TRUE(journal->record({Kind::directory, "/a", "config"}));
    ASSERT_TRUE(journal->record({Kind::file, "/a/\"quoted\"\n", ""}));
    ASSERT_TRUE(journal->record({Kind::directory, "/a", "again"}));
  }
  auto journal = Journal::open(path);
  ASSERT_TRUE(journal);
  ASSERT_TRUE(journal->record({Kind::service, "dstack-vmm", ""}));
  const auto entries = Journal::read(path);
  ASSERT_TRUE(entries);
  EXPECT_EQ(*entries, (std::vector<JournalEntry>{{Kind::directory, "/a", "config"},
                                                 {Kind::file, "/a/\"quoted\"\n", ""},
                                                 {Kind::service, "dstack-vmm", ""}}));
  EXPECT_EQ(journal->entries(), *entries);
  struct stat info = {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

// A crash in the middle of a write: at every length of the last line.
TEST(Journal, TornLastLineIsCutOff) {
  const auto first = Journal::line({Kind::directory, "/a", ""});
  const auto second = Journal::line({Kind::vm, "0123", "kms"});
  for (std::size_t cut = 0; cut < second.size(); ++cut) {
    const test::TempDir dir;
    const auto path = dir / "journal";
    ASSERT_TRUE(base::write_file_atomic(path, first + second.substr(0, cut)));
    EXPECT_EQ(Journal::read(path)->size(), 1U);
    auto journal = Journal::open(path);
    ASSERT_TRUE(journal) << cut;
    ASSERT_TRUE(journal->record({Kind::file, "/b", ""}));
    const auto entries = Journal::read(path);
    ASSERT_TRUE(entries) << cut;
    EXPECT_EQ(entries->size(), 2U);
    EXPECT_EQ(entries->back().name, "/b");
  }
}

TEST(Journal, GarbageIsAnErrorThatNamesTheLine) {
  const auto good = Journal::line({Kind::directory, "/a", ""});
  for (const std::string& bad :
       {std::string("nonsense\n"), std::string("{}\n"), std::string("[1]\n"), std::string("\n"),
        std::string("{\"kind\":\"weapon\",\"name\":\"x\"}\n"),
        std::string("{\"kind\":\"file\",\"name\":3}\n"), std::string("\0\0\0\n", 4)}) {
    const test::TempDir dir;
    ASSERT_TRUE(base::write_file_atomic(dir / "journal", good + bad));
    const auto opened = Journal::open(dir / "journal");
    ASSERT_FALSE(opened) << bad;
    EXPECT_EQ(opened.error().code, base::Code::journal_corrupt);
    EXPECT_NE(opened.error().message.find("line 2"), std::string::npos);
    EXPECT_FALSE(Journal::read(dir / "journal"));
  }
}

TEST(Journal, AbsentIsEmptyAndStaysAbsent) {
  const test::TempDir dir;
  EXPECT_TRUE(Journal::read(dir / "journal")->empty());
  EXPECT_FALSE(std::filesystem::exists(dir / "journal"));
}

TEST(Journal, RefusesASymlink) {
  const test::TempDir dir;
  std::filesystem::create_symlink("/etc/passwd", dir / "journal");
  EXPECT_FALSE(Journal::open(dir / "journal"));
}

}  // namespace
}  // namespace dstack::host
