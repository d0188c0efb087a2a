#include "host/program_places.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "host/programs.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using Kind = JournalEntry::Kind;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

const std::string k_id = "0123456789abcdef";

class ProgramPlacesTest : public testing::Test {
 protected:
  // A store with one set that is current, and a command that leads to it.
  void make(const fs::path& root, const fs::path& bin, const fs::path& owner) const {
    fs::create_directories(root / "versions" / k_id);
    std::ofstream(root / "versions" / k_id / "dstack") << "x";
    fs::create_directory(root / "versions/.new-x");
    fs::create_symlink("versions/" + k_id, root / "current");
    if (!owner.empty()) {
      fs::create_symlink(owner, root / "versions/.of");
    }
    fs::create_directories(bin);
    fs::create_symlink(root / "current/dstack", bin / "dstack");
  }
  std::vector<JournalEntry> journal() const {
    return {
        {Kind::directory, m_root.string(), ""},           {Kind::tree, (m_root / "versions").string(), ""},
        {Kind::file, (m_root / "current").string(), ""},  {Kind::file, (m_bin / "dstack").string(), ""},
        {Kind::file, m_layout.token_file().string(), ""}, {Kind::tree, m_layout.vms().string(), ""}};
  }
  std::vector<std::string> remove() const {
    std::vector<std::string> kept;
    EXPECT_TRUE(remove_programs(ours_of(program_places(journal()), m_layout), kept));
    return kept;
  }

  test::TempDir m_dir;
  Layout m_layout = *Layout::make((m_dir / "p").string());
  fs::path m_root = m_dir / "libexec", m_bin = m_dir / "bin";
};

TEST_F(ProgramPlacesTest, AreReadFromTheJournal) {
  const auto places = program_places(journal());
  EXPECT_THAT(places.stores, ElementsAre(m_root));
  EXPECT_THAT(places.commands, ElementsAre(m_bin / "dstack"));
  EXPECT_TRUE(is_part(places, m_root / "current"));
  EXPECT_TRUE(is_part(places, m_bin / "dstack"));
  EXPECT_FALSE(is_part(places, m_root / "else"));
  EXPECT_TRUE(leads_to(places, m_dir.path()));
  EXPECT_TRUE(leads_to(places, m_root));
  EXPECT_FALSE(leads_to(places, m_root / "versions"));
  EXPECT_FALSE(leads_to(places, m_dir / "p"));
}

TEST_F(ProgramPlacesTest, WhatIsOursGoesAndNothingElse) {
  make(m_root, m_bin, m_layout.state);
  std::ofstream(m_root / "notes") << "mine";
  std::ofstream(m_root / "versions/notes") << "mine";
  std::ofstream(m_bin / "other") << "mine";
  EXPECT_THAT(remove(), ElementsAre((m_root / "versions/notes").string()));
  std::vector<std::string> left;
  for (const auto& entry : fs::recursive_directory_iterator(m_dir.path())) {
    left.push_back(entry.path().lexically_relative(m_dir.path()).string());
  }
  EXPECT_THAT(left, UnorderedElementsAre("libexec", "libexec/versions", "libexec/versions/notes",
                                         "libexec/notes", "bin", "bin/other"));
  EXPECT_THAT(ours_of(program_places(journal()), m_layout).commands, IsEmpty());
}

TEST_F(ProgramPlacesTest, AnotherInstallationsStoreAndCommandsStay) {
  make(m_root, m_bin, "/var/lib/other");
  const auto ours = ours_of(program_places(journal()), m_layout);
  EXPECT_THAT(ours.stores, IsEmpty());
  EXPECT_THAT(ours.commands, IsEmpty());
  remove();
  EXPECT_TRUE(fs::exists(m_root / "versions" / k_id / "dstack"));
  EXPECT_TRUE(fs::is_symlink(m_bin / "dstack"));
}

TEST_F(ProgramPlacesTest, AnotherCommandOfTheNameStays) {
  make(m_root, m_bin, m_layout.state);
  fs::remove(m_bin / "dstack");
  std::ofstream(m_bin / "dstack") << "mine";
  remove();
  EXPECT_TRUE(fs::is_regular_file(m_bin / "dstack"));
  fs::remove(m_bin / "dstack");
  fs::create_symlink("/usr/bin/dstack", m_bin / "dstack");
  remove();
  EXPECT_TRUE(fs::is_symlink(m_bin / "dstack"));
}

TEST_F(ProgramPlacesTest, OneOfAnOlderDstackupIsOurs) {
  make(m_root, m_bin, {});
  EXPECT_THAT(remove(), IsEmpty());
  EXPECT_THAT(fs::is_empty(m_root), true);
  EXPECT_THAT(remove(), IsEmpty()) << "again, after a crash";
}

}  // namespace
}  // namespace dstack::host
