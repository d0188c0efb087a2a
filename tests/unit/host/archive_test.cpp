#include "host/archive.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>

#include "base/fs.h"
#include "unit/host/release_server.h"
#include "unit/temp_dir.h"

using namespace dstack;
using host::test::make_tar;
using host::test::Member;
using testing::HasSubstr;

namespace {

class Archive : public testing::Test {
 protected:
  base::Result<std::vector<host::ArchiveEntry>> unpack(const std::string& bytes,
                                                       const host::ArchiveLimits& limits = {},
                                                       bool keep_executable = false) {
    // Both readers must agree.
    const auto checked = host::check_archive(base::as_bytes(bytes), limits);
    std::ofstream(m_dir / "a.tar.gz", std::ios::binary) << bytes;
    std::filesystem::remove_all(target());
    std::filesystem::create_directory(target());
    auto unpacked = host::unpack_archive(m_dir / "a.tar.gz", target(), limits, keep_executable);
    EXPECT_EQ(checked.has_value(), unpacked.has_value());
    return unpacked;
  }
  std::string refused(const std::vector<Member>& members, const host::ArchiveLimits& limits = {}) {
    const auto result = unpack(make_tar(members), limits);
    if (result) {
      return "accepted";
    }
    EXPECT_EQ(result.error().code, base::Code::archive);
    return result.error().what();
  }
  std::filesystem::path target() const { return m_dir / "out"; }
  std::string read(const std::string& name) const {
    return base::read_file(target() / name).value_or("(none)");
  }

  test::TempDir m_dir;
};

}  // namespace

TEST_F(Archive, UnpacksFilesAndDirectories) {
  const auto entries = unpack(make_tar({{"d/", "", AE_IFDIR, 0777, "", ""},
                                        {"d/a", "alpha", AE_IFREG, 0755, "", ""},
                                        {"e/f/b", "", AE_IFREG, 0600, "", ""}}));
  ASSERT_TRUE(entries) << entries.error().what();
  EXPECT_EQ(entries->size(), 3U);
  EXPECT_EQ(read("d/a"), "alpha");
  EXPECT_EQ(read("e/f/b"), "");
  struct stat info = {};
  ASSERT_EQ(::stat((target() / "d/a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0644U);
  ASSERT_EQ(::stat((target() / "d").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0755U);
}

TEST_F(Archive, KeepsTheExecutableBitOnlyWhenAsked) {
  ASSERT_TRUE(
      unpack(make_tar({{"a", "x", AE_IFREG, 0755, "", ""}, {"b", "x", AE_IFREG, 0666, "", ""}}), {}, true));
  struct stat info = {};
  ASSERT_EQ(::stat((target() / "a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0755U);
  ASSERT_EQ(::stat((target() / "b").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0644U);
}

TEST_F(Archive, AcceptsDotSlashPrefixesAndGzipOfSeveralMembers) {
  ASSERT_TRUE(unpack(make_tar({{"./", "", AE_IFDIR, 0755, "", ""},
                               {"./d/", "", AE_IFDIR, 0755, "", ""},
                               {"./d/./a", "alpha", AE_IFREG, 0644, "", ""}})));
  EXPECT_EQ(read("d/a"), "alpha");

  // The same tar, compressed in two pieces.
  const auto tar = make_tar({{"d/a", std::string(100'000, 'a'), AE_IFREG, 0644, "", ""}}, /*gzip=*/false);
  const auto gzip = [](const std::string& plain) {
    struct archive* a = ::archive_write_new();
    ::archive_write_set_format_raw(a);
    ::archive_write_add_filter_gzip(a);
    ::archive_write_set_bytes_in_last_block(a, 1);
    std::string out(1 << 20, '\0');
    std::size_t used = 0;
    ::archive_write_open_memory(a, out.data(), out.size(), &used);
    struct archive_entry* entry = ::archive_entry_new();
    ::archive_entry_set_pathname(entry, "x");
    ::archive_entry_set_filetype(entry, AE_IFREG);
    ::archive_write_header(a, entry);
    ::archive_write_data(a, plain.data(), plain.size());
    ::archive_entry_free(entry);
    ::archive_write_close(a);
    ::archive_write_free(a);
    out.resize(used);
    return out;
  };
  const auto split = unpack(gzip(tar.substr(0, 50'001)) + gzip(tar.substr(50'001)));
  ASSERT_TRUE(split) << split.error().what();
  EXPECT_EQ(read("d/a"), std::string(100'000, 'a'));
}

TEST_F(Archive, RefusesEachEvilEntry) {
  EXPECT_THAT(refused({{"/etc/x", "x", AE_IFREG, 0644, "", ""}}), HasSubstr("absolute"));
  EXPECT_THAT(refused({{"../x", "x", AE_IFREG, 0644, "", ""}}), HasSubstr("leads out"));
  EXPECT_THAT(refused({{"a/../../x", "x", AE_IFREG, 0644, "", ""}}), HasSubstr("leads out"));
  EXPECT_THAT(refused({{"a/..", "", AE_IFDIR, 0755, "", ""}}), HasSubstr("leads out"));
  EXPECT_THAT(refused({{"a", "", AE_IFLNK, 0777, "/etc/passwd", ""}}), HasSubstr("symbolic link"));
  EXPECT_THAT(refused({{"b", "x", AE_IFREG, 0644, "", ""}, {"a", "", AE_IFREG, 0644, "", "b"}}),
              HasSubstr("hard link"));
  EXPECT_THAT(refused({{"a", "", AE_IFCHR, 0666, "", ""}}), HasSubstr("device"));
  EXPECT_THAT(refused({{"a", "", AE_IFBLK, 0666, "", ""}}), HasSubstr("device"));
  EXPECT_THAT(refused({{"a", "", AE_IFIFO, 0666, "", ""}}), HasSubstr("pipe"));
  EXPECT_THAT(refused({{"a", "x", AE_IFREG, 04755, "", ""}}), HasSubstr("set-uid"));
  EXPECT_THAT(refused({{"a", "x", AE_IFREG, 02755, "", ""}}), HasSubstr("set-gid"));
  EXPECT_THAT(refused({{"a\nb", "x", AE_IFREG, 0644, "", ""}}), HasSubstr("characters"));
  EXPECT_THAT(refused({{"a\\b", "x", AE_IFREG, 0644, "", ""}}), HasSubstr("characters"));
  EXPECT_FALSE(std::filesystem::exists(m_dir / "x"));
}

TEST_F(Archive, ANameIsOneThingOnce) {
  EXPECT_THAT(refused({{"a", "1", AE_IFREG, 0644, "", ""}, {"./a", "2", AE_IFREG, 0644, "", ""}}),
              HasSubstr("twice"));
  EXPECT_THAT(refused({{"a", "1", AE_IFREG, 0644, "", ""}, {"a/b", "2", AE_IFREG, 0644, "", ""}}),
              HasSubstr("below a file"));
  EXPECT_THAT(refused({{"a/b", "1", AE_IFREG, 0644, "", ""}, {"a", "2", AE_IFREG, 0644, "", ""}}),
              HasSubstr("twice"));
}

TEST_F(Archive, BombsAreBounded) {
  host::ArchiveLimits limits;
  limits.max_total = 1'000'000;
  limits.max_entries = 10;
  EXPECT_THAT(refused({{"a", std::string(600'000, '\0'), AE_IFREG, 0644, "", ""},
                       {"b", std::string(600'000, '\0'), AE_IFREG, 0644, "", ""}},
                      limits),
              HasSubstr("more than 1000000 bytes"));
  std::vector<Member> many;
  for (int i = 0; i < 11; ++i) {
    many.push_back({std::to_string(i), "", AE_IFREG, 0644, "", ""});
  }
  EXPECT_THAT(refused(many, limits), HasSubstr("more than 10 entries"));
  std::string deep;
  for (int i = 0; i < 20; ++i) {
    deep += "d/";
  }
  EXPECT_THAT(refused({{deep + "a", "x", AE_IFREG, 0644, "", ""}}), HasSubstr("too deep"));
  EXPECT_THAT(refused({{std::string(600, 'a'), "x", AE_IFREG, 0644, "", ""}}), HasSubstr("long"));
}

TEST_F(Archive, ASizeThatLiesIsBoundedToo) {
  // A header that promises 8 GiB: refused by the limit before anything is written.
  auto tar = make_tar({{"a", "x", AE_IFREG, 0644, "", ""}}, /*gzip=*/false);
  const std::string size = "77777777777";
  tar.replace(124, size.size(), size);
  std::fill_n(tar.begin() + 148, 8, ' ');
  unsigned sum = 0;
  for (int i = 0; i < 512; ++i) {
    sum += static_cast<unsigned char>(tar[static_cast<std::size_t>(i)]);
  }
  tar.replace(148, 7, base::format("{:06o}", sum) + std::string(1, '\0'));
  host::ArchiveLimits limits;
  limits.max_total = 1'000'000;
  EXPECT_FALSE(unpack(tar, limits));
  EXPECT_FALSE(unpack(tar));  // without the limit: the data end too early
}

TEST_F(Archive, DamagedAndForeignFilesAreErrors) {
  const auto good = make_tar({{"d/a", std::string(50'000, 'q') + "end", AE_IFREG, 0644, "", ""}});
  for (std::size_t length = 0; length < good.size() - 8; length += 7) {
    EXPECT_FALSE(unpack(good.substr(0, length))) << length;
  }
  EXPECT_FALSE(unpack(""));
  EXPECT_FALSE(unpack("<html>not here</html>"));
  EXPECT_FALSE(unpack(std::string(10'240, '\0')));
}

TEST(ArchivePath, Rules) {
  EXPECT_EQ(host::clean_entry_path("./a//b/./c/").value(), "a/b/c");
  EXPECT_EQ(host::clean_entry_path("./").value(), "");
  EXPECT_EQ(host::clean_entry_path("..a/b..").value(), "..a/b..");
  for (const char* path : {"", "/", "/a", "..", "a/..", "../a", "a\x1b", "a\\b", "\xff"}) {
    EXPECT_FALSE(host::clean_entry_path(path)) << path;
  }
}
