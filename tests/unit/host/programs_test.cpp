#include "host/programs.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>

#include "base/fs.h"
#include "host/program_source.h"
#include "unit/host/release_server.h"
#include "unit/temp_dir.h"

using namespace dstack;
namespace fs = std::filesystem;
using testing::HasSubstr;

namespace {

constexpr const char* k_all[] = {"dstackup", "dstack", "dstack-auth", "dstack-vmm"};

std::string script(const std::string& version) {
  return "#!/bin/sh\necho " + version + "\n";
}

class Programs : public testing::Test {
 protected:
  Programs() { make("one", "1.0.0"); }

  fs::path make(const std::string& name, const std::string& version) const {
    const auto directory = m_dir / name;
    fs::create_directories(directory);
    for (const auto* program : k_all) {
      write(directory / program, script(version));
    }
    return directory;
  }
  static void write(const fs::path& path, const std::string& text) {
    std::ofstream(path) << text;
    fs::permissions(path, static_cast<fs::perms>(0755));
  }
  std::vector<std::string> entries(const fs::path& directory) const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(directory)) {
      out.push_back(entry.path().filename().string());
    }
    return out;
  }

  test::TempDir m_dir;
  host::Layout m_layout = host::Layout::make((m_dir / "prefix").string()).value();
  host::ProgramStore m_store{m_layout};
};

}  // namespace

TEST_F(Programs, AreKnownByWhatTheyAre) {
  const auto one = host::inspect_programs(m_dir / "one");
  ASSERT_TRUE(one) << one.error().what();
  EXPECT_TRUE(host::is_program_set_id(one->id));
  EXPECT_THAT(one->names, testing::ElementsAre("dstackup", "dstack", "dstack-auth", "dstack-vmm"));
  EXPECT_EQ(host::inspect_programs(make("same", "1.0.0"))->id, one->id);
  EXPECT_NE(host::inspect_programs(make("two", "2.0.0"))->id, one->id);
  fs::remove(m_dir / "one/dstack");
  EXPECT_NE(host::inspect_programs(m_dir / "one")->id, one->id);
}

TEST_F(Programs, MustBeComplete) {
  fs::permissions(m_dir / "one/dstack-vmm", static_cast<fs::perms>(0644));
  const auto one = host::inspect_programs(m_dir / "one");
  if (::geteuid() != 0 || !one) {
    ASSERT_FALSE(one);
    EXPECT_THAT(one.error().what(), HasSubstr("no program dstack-vmm"));
  }
  fs::remove(m_dir / "one/dstack-auth");
  EXPECT_EQ(host::inspect_programs(m_dir / "one").error().code, base::Code::programs);
  EXPECT_FALSE(host::inspect_programs(m_dir / "none"));
}

TEST_F(Programs, MustRunHereAndBeOfOneVersion) {
  EXPECT_EQ(host::check_programs_run(*host::inspect_programs(m_dir / "one")).value(), "1.0.0");
  write(m_dir / "one/dstack-auth", script("1.0.1"));
  EXPECT_THAT(host::check_programs_run(*host::inspect_programs(m_dir / "one")).error().what(),
              HasSubstr("1.0.1"));
  write(m_dir / "one/dstack-auth", "#!/bin/sh\nexit 1\n");
  EXPECT_EQ(host::check_programs_run(*host::inspect_programs(m_dir / "one")).error().code,
            base::Code::programs);
  write(m_dir / "one/dstack-auth",
        "\x7f"
        "ELF, but not for this machine");
  EXPECT_THAT(host::check_programs_run(*host::inspect_programs(m_dir / "one")).error().what(),
              HasSubstr("does not run here"));
}

TEST_F(Programs, AVersionThatIsNoneIsRefused) {
  EXPECT_EQ(host::program_version(m_dir / "one/dstack-vmm").value(), "1.0.0");
  for (const auto& said :
       {std::string(), std::string(65, '1'), std::string("1\x1b[2J"), std::string("1\xff")}) {
    write(m_dir / "one/dstack-vmm", script(said));
    const auto version = host::program_version(m_dir / "one/dstack-vmm");
    ASSERT_FALSE(version) << said;
    EXPECT_EQ(version.error().code, base::Code::programs);
  }
}

TEST_F(Programs, AreKeptSideBySide) {
  const auto one = *host::inspect_programs(m_dir / "one");
  const auto two = *host::inspect_programs(make("two", "2.0.0"));
  EXPECT_FALSE(m_store.current());
  EXPECT_TRUE(m_store.add(one).value());
  EXPECT_FALSE(m_store.add(one).value());
  EXPECT_TRUE(m_store.add(two).value());
  EXPECT_FALSE(m_store.current());
  ASSERT_TRUE(m_store.set_current(one.id));
  EXPECT_EQ(m_store.current(), one.id);
  ASSERT_TRUE(m_store.set_current(two.id));
  ASSERT_TRUE(m_store.set_previous(one.id));
  EXPECT_EQ(m_store.current(), two.id);
  EXPECT_EQ(m_store.previous(), one.id);
  EXPECT_EQ(base::read_file(m_layout.libexec / "current/dstack-vmm").value(), script("2.0.0"));
  EXPECT_FALSE(m_store.set_current("0000000000000000"));
  EXPECT_FALSE(m_store.set_current("../../../../etc"));
  EXPECT_EQ(m_store.current(), two.id);
}

TEST_F(Programs, ChangedOnesAreReplaced) {
  const auto one = *host::inspect_programs(m_dir / "one");
  ASSERT_TRUE(m_store.add(one));
  write(m_store.directory(one.id) / "dstack-vmm", "other");
  EXPECT_TRUE(m_store.add(one).value());
  EXPECT_EQ(host::inspect_programs(m_store.directory(one.id))->id, one.id);
}

TEST_F(Programs, OnesThatChangeWhileTheyAreCopiedAreRefused) {
  const auto one = *host::inspect_programs(m_dir / "one");
  write(m_dir / "one/dstack-vmm", "being built");
  const auto added = m_store.add(one);
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().what(), HasSubstr("changed while"));
  EXPECT_TRUE(entries(m_store.versions()).empty());
}

TEST_F(Programs, AStoreHasOneOwner) {
  EXPECT_FALSE(m_store.owner());
  EXPECT_EQ(*m_store.claim("/var/lib/dstack"), true);
  EXPECT_EQ(*m_store.claim("/var/lib/dstack"), false);
  EXPECT_EQ(m_store.owner(), "/var/lib/dstack");
  const auto other = m_store.claim("/opt/d/var/lib/dstack");
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().what() + other.error().fix,
              testing::AllOf(HasSubstr("/var/lib/dstack"), HasSubstr("--libexec-dir")));
}

TEST_F(Programs, LinksThatLeadElsewhereAreNone) {
  fs::create_directories(m_layout.libexec);
  fs::create_symlink("/bin", m_layout.libexec / "current");
  EXPECT_FALSE(m_store.current());
  const auto one = *host::inspect_programs(m_dir / "one");
  ASSERT_TRUE(m_store.add(one));
  EXPECT_TRUE(m_store.set_current(one.id));
  EXPECT_EQ(m_store.current(), one.id);
}

TEST_F(Programs, PruneKeepsWhatIsNeeded) {
  std::vector<std::string> ids;
  for (const auto* version : {"1", "2", "3"}) {
    const auto set = *host::inspect_programs(make(version, version));
    ASSERT_TRUE(m_store.add(set));
    ids.push_back(set.id);
  }
  ASSERT_TRUE(m_store.set_current(ids[2]));
  ASSERT_TRUE(m_store.set_previous(ids[1]));
  fs::create_directories(m_store.versions() / ".new-0123456789abcdef");
  fs::create_directories(m_store.versions() / "somebody's");
  ASSERT_TRUE(m_store.prune(false));
  EXPECT_THAT(entries(m_store.versions()),
              testing::UnorderedElementsAre(ids[0], ids[1], ids[2], "somebody's"));
  ASSERT_TRUE(m_store.prune(true));
  EXPECT_THAT(entries(m_store.versions()), testing::UnorderedElementsAre(ids[1], ids[2], "somebody's"));
}

TEST_F(Programs, ComeFromDirectoriesAndArchives) {
  using host::test::Member;
  const auto id = host::inspect_programs(m_dir / "one")->id;
  EXPECT_EQ(host::ProgramSource::open(m_dir / "one", m_dir / "work")->programs().id, id);
  const auto archive = [&](const std::string& prefix, const std::string& sums) {
    std::vector<Member> members;
    for (const auto* program : k_all) {
      members.push_back({prefix + program, script("1.0.0"), AE_IFREG, 0755, "", ""});
    }
    if (!sums.empty()) {
      members.push_back({prefix + "sha256sum.txt", sums, AE_IFREG, 0644, "", ""});
    }
    std::ofstream(m_dir / "a.tar.gz") << host::test::make_tar(members);
    return m_dir / "a.tar.gz";
  };
  std::string sums;
  for (const auto* program : k_all) {
    sums += crypto::sha256_hex(script("1.0.0")) + "  " + program + "\n";
  }
  for (const std::string prefix : {"", "dstack-1.0.0/", "./dstack-1.0.0/bin/"}) {
    const auto source = host::ProgramSource::open(archive(prefix, sums), m_dir / "work");
    ASSERT_TRUE(source) << source.error().what();
    EXPECT_EQ(source->programs().id, id);
    EXPECT_TRUE(host::check_programs_run(source->programs()));
  }
  EXPECT_TRUE(entries(m_dir / "work").empty());
  EXPECT_TRUE(host::ProgramSource::open(archive("x/", ""), m_dir / "work"));
  const auto wrong =
      host::ProgramSource::open(archive("x/", std::string(64, 'a') + "  dstackup\n"), m_dir / "work");
  ASSERT_FALSE(wrong);
  EXPECT_THAT(wrong.error().what(), HasSubstr("sha256sum.txt has another sum for dstackup"));
  std::ofstream(m_dir / "a.tar.gz") << "not an archive";
  EXPECT_EQ(host::ProgramSource::open(m_dir / "a.tar.gz", m_dir / "work").error().code, base::Code::archive);
  EXPECT_EQ(host::ProgramSource::open(m_dir / "none", m_dir / "work").error().code, base::Code::not_found);
  EXPECT_TRUE(entries(m_dir / "work").empty());
}
