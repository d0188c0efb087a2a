#include "app/allowlist_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/decision.h"
#include "base/fs.h"
#include "unit/temp_dir.h"

using namespace dstack;
using app::AllowlistFile;
using base::Code;
using testing::ElementsAre;
using testing::HasSubstr;

namespace {

std::string app_id(int n) {
  char text[64];
  std::snprintf(text, sizeof text, "%040x", n);
  return text;
}
std::string hash(int n) {
  char text[80];
  std::snprintf(text, sizeof text, "%064x", n);
  return text;
}

class AllowlistFileTest : public testing::Test {
 protected:
  test::TempDir m_directory;
  std::filesystem::path m_path = m_directory / "auth-allowlist.json";
  AllowlistFile m_file{m_path};

  void write(std::string_view text) { ASSERT_TRUE(base::write_file_atomic(m_path, text)); }
  std::string content() { return base::read_file(m_path).value_or("unreadable"); }
  std::size_t files() {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(m_directory.path()),
                                                  std::filesystem::directory_iterator()));
  }
};

// Bytes that this process has read by system calls so far.
std::uint64_t bytes_read() {
  const auto text = base::read_file("/proc/self/io").value_or("");
  const auto at = text.find("rchar: ");
  return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + 7, nullptr, 10);
}

}  // namespace

TEST_F(AllowlistFileTest, WhatIsTooLargeIsRefusedUnread) {
  write("{}");
  ASSERT_EQ(::truncate(m_path.c_str(), 1 << 30), 0) << "sparse: it takes no room";
  const auto before = bytes_read();
  const auto loaded = app::load_allowlist(m_path);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::bad_allowlist);
  EXPECT_THAT(loaded.error().what(), HasSubstr("larger than 268435456 bytes"));
  EXPECT_EQ(m_file.pin_image(hash(1)).error().code, Code::bad_allowlist);
  EXPECT_EQ(m_file.apps().error().code, Code::bad_allowlist);
  EXPECT_LT(bytes_read() - before, 100'000U);
}

TEST_F(AllowlistFileTest, CreatesAListThatAllowsNothingAndKeepsAnExistingOne) {
  EXPECT_TRUE(m_file.create_if_missing().value());
  auto loaded = app::load_allowlist(m_path);
  ASSERT_TRUE(loaded) << loaded.error().what();
  EXPECT_TRUE(loaded->allowlist.apps.empty());
  EXPECT_FALSE(loaded->allowlist.allow_any_os_image);
  ASSERT_TRUE(m_file.register_app(app_id(1), hash(1)).value());
  EXPECT_FALSE(m_file.create_if_missing().value());
  EXPECT_EQ(m_file.apps()->size(), 1U);
}

TEST_F(AllowlistFileTest, RegistersInTheFormOfTheSpec) {
  write("{\"osImages\": [], \"kms\": {}, \"apps\": {}}");
  EXPECT_TRUE(m_file.register_app("0x" + app_id(10), "0X" + hash(11)).value());
  EXPECT_EQ(content(),
            "{\n  \"osImages\": [],\n  \"kms\": {},\n  \"apps\": {\n    \"" + app_id(10) +
                "\": {\n      \"composeHashes\": [\n        \"" + hash(11) +
                "\"\n      ],\n      \"devices\": [],\n      \"allowAnyDevice\": true\n    }\n  }\n}\n");
  // A second time it says that nothing changed, however the hash is written.
  EXPECT_FALSE(m_file.register_app(app_id(10), " 0x" + hash(11)).value());
  EXPECT_TRUE(m_file.register_app(app_id(10), hash(12)).value());
  EXPECT_THAT(m_file.apps()->at(0).compose_hashes, ElementsAre(hash(11), hash(12)));
}

TEST_F(AllowlistFileTest, KeepsUnknownKeysOrderAndOtherApps) {
  write(
      "{\"note\": {\"b\": 1, \"a\": [null]}, \"apps\": {\"0xAB\": {\"allowAnyDevice\": false, \"why\": "
      "\"x\"}}, \"z\": 1}");
  ASSERT_TRUE(m_file.register_app(app_id(1), hash(1)).value());
  const std::string text = content();
  EXPECT_LT(text.find("\"note\""), text.find("\"apps\""));
  EXPECT_LT(text.find("\"b\": 1"), text.find("\"a\""));
  EXPECT_THAT(text, HasSubstr("\"0xAB\": {\n      \"allowAnyDevice\": false,\n      \"why\": \"x\"\n    }"));
  EXPECT_THAT(text, HasSubstr("\"z\": 1"));
}

TEST_F(AllowlistFileTest, AnExistingKeyInAnotherSpellingIsUsed) {
  std::string upper = app_id(0xabcdef);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](char c) { return static_cast<char>(std::toupper(c)); });
  write("{\"apps\": {\"0x" + upper + "\": {\"composeHashes\": []}}}");
  ASSERT_TRUE(m_file.register_app(app_id(0xabcdef), hash(1)).value());
  EXPECT_EQ(m_file.apps()->size(), 1U);
  EXPECT_TRUE(app::load_allowlist(m_path)) << content();
}

TEST_F(AllowlistFileTest, RevokesOneHashThenTheEntry) {
  write("{}");
  ASSERT_TRUE(m_file.register_app(app_id(1), hash(1)).value());
  ASSERT_TRUE(m_file.register_app(app_id(1), hash(2)).value());
  ASSERT_TRUE(m_file.register_app(app_id(2), hash(1)).value());
  EXPECT_TRUE(m_file.revoke_hash(app_id(1), hash(1)).value());
  EXPECT_FALSE(m_file.revoke_hash(app_id(1), hash(1)).value());
  EXPECT_THAT(m_file.apps()->at(0).compose_hashes, ElementsAre(hash(2)));
  EXPECT_TRUE(m_file.revoke_hash(app_id(1), hash(2)).value());
  ASSERT_EQ(m_file.apps()->size(), 1U);
  EXPECT_EQ(m_file.apps()->at(0).app_id, app_id(2));
}

TEST_F(AllowlistFileTest, PinsImages) {
  write("{}");
  EXPECT_TRUE(m_file.pin_image(hash(1)).value());
  EXPECT_FALSE(m_file.pin_image("0x" + hash(1)).value());
  EXPECT_TRUE(m_file.pin_image(hash(2)).value());
  EXPECT_TRUE(m_file.unpin_image(hash(2)).value());
  EXPECT_FALSE(m_file.unpin_image(hash(2)).value());
  EXPECT_TRUE(m_file.set_kms_allow_any_device(true).value());
  auto loaded = app::load_allowlist(m_path);
  ASSERT_TRUE(loaded) << loaded.error().what();
  EXPECT_THAT(loaded->allowlist.os_images, ElementsAre(hash(1)));
  EXPECT_TRUE(loaded->allowlist.kms_allow_any_device);
  EXPECT_FALSE(loaded->allowlist.allow_any_os_image);
}

// A list that names images counts whatever the key says, so opening it empties the list.
TEST_F(AllowlistFileTest, AnyImageOrTheListedOnes) {
  write("{}");
  ASSERT_TRUE(m_file.pin_image(hash(1)).value());
  EXPECT_TRUE(m_file.allow_any_image().value());
  EXPECT_FALSE(m_file.allow_any_image().value());
  auto loaded = app::load_allowlist(m_path);
  EXPECT_TRUE(loaded->allowlist.allow_any_os_image);
  EXPECT_TRUE(loaded->allowlist.os_images.empty());
  EXPECT_TRUE(m_file.deny_unlisted_images().value());
  EXPECT_FALSE(m_file.deny_unlisted_images().value());
  loaded = app::load_allowlist(m_path);
  EXPECT_FALSE(loaded->allowlist.allow_any_os_image);
  EXPECT_TRUE(loaded->allowlist.os_images.empty());
}

TEST_F(AllowlistFileTest, WritesOnlyDigests) {
  write("{}");
  for (const std::string& bad :
       {std::string(), std::string("0x"), std::string("zz"), hash(1) + "00", app_id(1)}) {
    EXPECT_FALSE(m_file.register_app(app_id(1), bad)) << bad;
    EXPECT_FALSE(m_file.pin_image(bad)) << bad;
  }
  EXPECT_FALSE(m_file.register_app("", hash(1)));
  EXPECT_FALSE(m_file.register_app("app", hash(1)));
  EXPECT_FALSE(m_file.unpin_image("0x"));
  EXPECT_EQ(content(), "{}");
}

TEST_F(AllowlistFileTest, MissingFileSaysWhatToRunAndLeavesNothing) {
  auto result = m_file.register_app(app_id(1), hash(1));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Code::not_found);
  EXPECT_THAT(result.error().fix, HasSubstr("dstackup install"));
  EXPECT_EQ(files(), 0U);
}

TEST_F(AllowlistFileTest, CorruptFileIsNotTouched) {
  for (const char* text : {"", "{", "[]", R"({"apps":[]})", R"({"apps":{},"apps":{}})",
                           R"({"osImages":[""]})", R"({"apps":{"0xa":{},"A":{}}})"}) {
    write(text);
    auto result = m_file.register_app(app_id(1), hash(1));
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.error().code, Code::bad_allowlist);
    EXPECT_THAT(result.error().what(), HasSubstr(m_path.string()));
    EXPECT_FALSE(result.error().fix.empty());
    EXPECT_EQ(content(), text);
    EXPECT_FALSE(m_file.create_if_missing()) << text;
  }
}

TEST_F(AllowlistFileTest, ASymlinkIsNotWrittenThrough) {
  const auto target = m_directory / "real.json";
  ASSERT_TRUE(base::write_file_atomic(target, "{}"));
  std::filesystem::create_symlink(target, m_path);
  EXPECT_EQ(m_file.register_app(app_id(1), hash(1)).error().code, Code::unsafe_allowlist);
  EXPECT_EQ(base::read_file(target).value(), "{}");
}

TEST_F(AllowlistFileTest, ModeAndOwnerStay) {
  write("{}");
  ASSERT_EQ(::chmod(m_path.c_str(), 0640), 0);
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(m_path.c_str(), 1234, 4321), 0);
  }
  ASSERT_TRUE(m_file.register_app(app_id(1), hash(1)).value());
  struct stat status = {};
  ASSERT_EQ(::stat(m_path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640U);
  if (::geteuid() == 0) {
    EXPECT_EQ(status.st_uid, 1234U);
    EXPECT_EQ(status.st_gid, 4321U);
  }
}

TEST_F(AllowlistFileTest, ConcurrentWritersLoseNothing) {
  write("{}");
  constexpr int k_writers = 6;
  constexpr int k_each = 5;
  std::vector<pid_t> children;
  for (int writer = 0; writer < k_writers; ++writer) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      bool good = true;
      for (int i = 0; i < k_each; ++i) {
        good = good && m_file.register_app(app_id(writer * 1000 + i), hash(i)).value_or(false);
      }
      ::_exit(good ? 0 : 1);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(m_file.apps()->size(), static_cast<std::size_t>(k_writers * k_each));
  EXPECT_EQ(files(), 2U) << "the list and its lock, no temporary files";
}

TEST_F(AllowlistFileTest, LoadRefusesWhatOthersCouldChange) {
  write("{}");
  EXPECT_TRUE(app::load_allowlist(m_path));
  for (const mode_t mode : {0664, 0646, 0666}) {
    ASSERT_EQ(::chmod(m_path.c_str(), mode), 0);
    auto loaded = app::load_allowlist(m_path);
    ASSERT_FALSE(loaded) << mode;
    EXPECT_EQ(loaded.error().code, Code::unsafe_allowlist);
  }
  ASSERT_EQ(::chmod(m_path.c_str(), 0644), 0);
  EXPECT_TRUE(app::load_allowlist(m_path));
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(m_path.c_str(), 1234, 0), 0);
    EXPECT_EQ(app::load_allowlist(m_path).error().code, Code::unsafe_allowlist);
  }
}

// A rename there would bring an older list back.
TEST_F(AllowlistFileTest, LoadRefusesADirectoryThatOthersCouldChange) {
  write("{}");
  for (const mode_t mode : {0777, 0775}) {
    ASSERT_EQ(::chmod(m_directory.path().c_str(), mode), 0);
    auto loaded = app::load_allowlist(m_path);
    ASSERT_FALSE(loaded) << mode;
    EXPECT_EQ(loaded.error().code, Code::unsafe_allowlist);
    EXPECT_THAT(loaded.error().what(), HasSubstr("lies in " + m_directory.path().string()));
    EXPECT_THAT(loaded.error().fix, HasSubstr("chmod go-w"));
  }
  ASSERT_EQ(::chmod(m_directory.path().c_str(), 01777), 0);
  EXPECT_TRUE(app::load_allowlist(m_path)) << "what is root's cannot be renamed there";
  ASSERT_EQ(::chmod(m_directory.path().c_str(), 0755), 0);
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(m_directory.path().c_str(), 1234, 0), 0);
    EXPECT_EQ(app::load_allowlist(m_path).error().code, Code::unsafe_allowlist);
  }
}

TEST_F(AllowlistFileTest, LoadFollowsASymlinkOnlyInsideTheDirectory) {
  test::TempDir other;
  ASSERT_TRUE(base::write_file_atomic(m_directory / "real.json", "{}"));
  ASSERT_TRUE(base::write_file_atomic(other / "real.json", "{}"));
  std::filesystem::create_symlink("real.json", m_path);
  EXPECT_TRUE(app::load_allowlist(m_path));
  std::filesystem::remove(m_path);
  std::filesystem::create_symlink(other / "real.json", m_path);
  EXPECT_EQ(app::load_allowlist(m_path).error().code, Code::unsafe_allowlist);
  std::filesystem::remove(m_path);
  std::filesystem::create_directory(m_path);
  EXPECT_EQ(app::load_allowlist(m_path).error().code, Code::unsafe_allowlist);
  std::filesystem::remove(m_path);
  ASSERT_EQ(::mkfifo(m_path.c_str(), 0600), 0);
  EXPECT_EQ(app::load_allowlist(m_path).error().code, Code::unsafe_allowlist);
  std::filesystem::remove(m_path);
  EXPECT_EQ(app::load_allowlist(m_path).error().code, Code::not_found);
}

TEST_F(AllowlistFileTest, IdentityChangesWithEveryReplace) {
  write("{}");
  const auto first = app::file_identity(m_path);
  ASSERT_TRUE(first);
  EXPECT_TRUE(*first == *app::file_identity(m_path));
  EXPECT_TRUE(*first == app::load_allowlist(m_path)->identity);
  ASSERT_TRUE(m_file.register_app(app_id(1), hash(1)).value());
  EXPECT_FALSE(*first == *app::file_identity(m_path));
}

TEST_F(AllowlistFileTest, ARegisteredAppIsAllowedAndARevokedOneIsNot) {
  ASSERT_TRUE(m_file.create_if_missing().value());
  ASSERT_TRUE(m_file.pin_image(hash(9)).value());
  ASSERT_TRUE(m_file.register_app(app_id(1), hash(1)).value());
  app::BootInfo boot;
  boot.app_id = app_id(1);
  boot.compose_hash = hash(1);
  boot.os_image_hash = hash(9);
  auto loaded = app::load_allowlist(m_path);
  EXPECT_EQ(app::decide_app(&loaded->allowlist, boot).reason, "ok");
  ASSERT_TRUE(m_file.revoke_hash(app_id(1), hash(1)).value());
  loaded = app::load_allowlist(m_path);
  EXPECT_EQ(app::decide_app(&loaded->allowlist, boot).reason, "app not registered");
}
