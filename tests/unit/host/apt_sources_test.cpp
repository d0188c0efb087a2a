#include "host/apt_sources.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "base/fs.h"

namespace dstack::host {
namespace {

TEST(AptSources, ReadsOneLineFormat) {
  const auto sources = parse_sources_list(
      "# comment\n"
      "deb-src http://m.example/debian bookworm main\n"
      "deb [arch=amd64 signed-by=/x] http://m.example/debian/ bookworm main contrib # end\n"
      "deb http://m.example/debian\n"
      "deb [ arch=amd64 http://broken.example\n");
  ASSERT_EQ(sources.size(), 1u);
  EXPECT_EQ(sources[0].uri, "http://m.example/debian/");
  EXPECT_EQ(sources[0].suite, "bookworm");
  EXPECT_EQ(sources[0].components.size(), 2u);
}

TEST(AptSources, ReadsDeb822) {
  const auto sources = parse_deb822_sources(
      "Types: deb deb-src\n# comment\nURIs: http://a.example/debian\n  http://b.example/debian\n"
      "Suites: bookworm bookworm-updates\nComponents: main\n\n"
      "Types: deb\nEnabled: no\nURIs: http://c.example\nSuites: bookworm\nComponents: main\n");
  ASSERT_EQ(sources.size(), 4u);
  EXPECT_EQ(sources[1].suite, "bookworm-updates");
  EXPECT_EQ(sources[2].uri, "http://b.example/debian");
}

TEST(AptSources, ChoosesTheArchiveAndSecurity) {
  const auto mirrors = choose_mirrors({{"https://vendor.example/apt", "nodistro", {"main"}},
                                       {"https://other.example/apt", "cloud-sdk-bookworm", {"main"}},
                                       {"http://contrib.example/debian", "bookworm", {"contrib"}},
                                       {"cdrom:[x]/", "bookworm", {"main"}},
                                       {"http://s.example/debian-security/", "bookworm-security", {"main"}},
                                       {"http://m.example/debian//", "bookworm", {"main"}},
                                       {"http://later.example/debian", "trixie", {"main"}}});
  ASSERT_TRUE(mirrors.has_value());
  EXPECT_EQ(mirrors->archive, "http://m.example/debian");
  EXPECT_EQ(mirrors->security, "http://s.example/debian-security");
}

TEST(AptSources, SaysWhenThereIsNone) {
  const auto mirrors = choose_mirrors({{"https://vendor.example/apt", "nodistro", {"main"}}});
  ASSERT_FALSE(mirrors.has_value());
  EXPECT_EQ(mirrors.error().code, base::Code::not_found);
  EXPECT_NE(mirrors.error().fix.find("--mirror"), std::string::npos);
}

TEST(AptSources, ReadsADirectory) {
  std::string root = "/tmp/apt-test-XXXXXX";
  ASSERT_NE(::mkdtemp(root.data()), nullptr);
  std::filesystem::create_directory(root + "/sources.list.d");
  std::ofstream(root + "/sources.list.d/x.list") << "deb http://list.example/debian trixie main\n";
  std::ofstream(root + "/sources.list.d/a.sources")
      << "Types: deb\nURIs: http://first.example/debian\nSuites: trixie\nComponents: main\n";
  std::ofstream(root + "/sources.list.d/0.ignored") << "deb http://ignored.example/debian trixie main\n";
  const auto mirrors = mirrors_from_apt(root);
  (void)base::remove_tree(root);
  ASSERT_TRUE(mirrors.has_value());
  EXPECT_EQ(mirrors->archive, "http://first.example/debian");
}

}  // namespace
}  // namespace dstack::host
