#include "host/release.h"

#include <gmock/gmock.h>

using namespace dstack;
using testing::HasSubstr;

namespace {

host::Release release_with(const std::vector<std::string>& names) {
  host::Release out{"guest-os-v0.6.0", {}};
  for (const auto& name : names) {
    out.assets.push_back({name, "https://x/" + name, {}, {}});
  }
  return out;
}

}  // namespace

TEST(ReleaseVersion, AcceptsWhatReleasesAreCalled) {
  EXPECT_EQ(host::parse_release_version("0.6.0").value(), "0.6.0");
  EXPECT_EQ(host::parse_release_version("v0.5.4").value(), "0.5.4");
  EXPECT_EQ(host::parse_release_version("guest-os-v0.6.1").value(), "0.6.1");
  EXPECT_EQ(host::parse_release_version("0.6.0.a2").value(), "0.6.0.a2");
  EXPECT_EQ(host::parse_release_version("0.6.0-rc1").value(), "0.6.0-rc1");
}

TEST(ReleaseVersion, RefusesEverythingElse) {
  for (const char* text :
       {"", "0.6", "latest", "0.x.0", "0.6.x", "0.6.", "..", "0.6.0/../x", "0.6.0?x", "0.6.0 ", "v", "0..0",
        "0.6.0..", "guest-os-vv0.6.0", "999999.0.0", "0.6.0\n", "%2e.6.0"}) {
    EXPECT_FALSE(host::parse_release_version(text)) << text;
  }
}

TEST(ReleaseVersion, DecidesTheRepository) {
  EXPECT_EQ(host::release_path("0.5.4"), "/Dstack-TEE/meta-dstack/releases/tags/v0.5.4");
  EXPECT_EQ(host::release_path("0.5.4-rc1"), "/Dstack-TEE/meta-dstack/releases/tags/v0.5.4-rc1");
  EXPECT_EQ(host::release_path("0.6.0"), "/Dstack-TEE/dstack/releases/tags/guest-os-v0.6.0");
  EXPECT_EQ(host::release_path("0.10.0"), "/Dstack-TEE/dstack/releases/tags/guest-os-v0.10.0");
  EXPECT_EQ(host::release_path("1.0.0"), "/Dstack-TEE/dstack/releases/tags/guest-os-v1.0.0");
}

TEST(ReleaseVersion, IsFoundInImageNames) {
  EXPECT_EQ(host::as_release("dstack-0.6.0")->version, "0.6.0");
  EXPECT_FALSE(host::as_release("dstack-0.6.0")->gpu);
  EXPECT_EQ(host::as_release("dstack-nvidia-0.6.0")->version, "0.6.0");
  EXPECT_TRUE(host::as_release("dstack-nvidia-0.6.0")->gpu);
  EXPECT_EQ(host::as_release("v0.6.0")->version, "0.6.0");
  EXPECT_EQ(host::as_release("0.6.0-rc1_x")->version, "0.6.0-rc1_x");
  for (const char* name :
       {"", "dstack-dev-0.6.0", "my-image", "dstack-", "v", "latest", "dstack-v0.6.0", "0.6/0"}) {
    EXPECT_FALSE(host::as_release(name)) << name;
  }
}

TEST(ReleaseApi, IsCleaned) {
  EXPECT_EQ(host::clean_release_api(" https://mirror.example/repos// ").value(),
            "https://mirror.example/repos");
  for (const char* text :
       {"", "mirror.example", "ftp://x/repos", "https://u:p@x/repos", "https://x/repos?a=b"}) {
    EXPECT_FALSE(host::clean_release_api(text)) << text;
  }
}

TEST(ReleaseJson, ReadsTagsNamesAndDigests) {
  const auto hex = std::string(64, 'A');
  const auto release = host::parse_release(
      R"({"tag_name":"guest-os-v0.6.0","assets":[
        {"name":"a.tar.gz","browser_download_url":"https://x/a","digest":"sha256:)" +
      hex + R"(","size":7},
        {"name":"b.tar.gz","browser_download_url":"https://x/b","digest":null},
        {"name":"../c.tar.gz","browser_download_url":"https://x/c"}]})");
  ASSERT_TRUE(release) << release.error().what();
  ASSERT_EQ(release->assets.size(), 2U);
  EXPECT_EQ(release->assets[0].sha256, std::string(64, 'a'));
  EXPECT_EQ(release->assets[0].size, 7U);
  EXPECT_FALSE(release->assets[1].sha256);
}

TEST(ReleaseJson, RefusesWhatIsNone) {
  for (const char* text :
       {"", "<html>", "[]", "{}", R"({"tag_name":"x"})", R"({"tag_name":"","assets":[]})",
        R"({"tag_name":"x","assets":[1]})", R"({"tag_name":"x","assets":[{"name":"a"}]})",
        R"({"tag_name":"x","assets":[{"name":"a","browser_download_url":"u","digest":"sha512:00"}]})",
        R"({"tag_name":"x","assets":[{"name":"a","browser_download_url":"u","digest":"sha256:"}]})",
        R"({"tag_name":"x","assets":[{"name":"a","browser_download_url":"u","digest":1}]})"}) {
    const auto release = host::parse_release(text);
    ASSERT_FALSE(release) << text;
    EXPECT_EQ(release.error().code, base::Code::release);
  }
}

TEST(ReleaseJson, TakesTheFirstGuestReleaseOfAList) {
  const auto first = host::first_guest_release(
      R"([{"tag_name":"kms-v1","assets":[]},{"tag_name":"guest-os-v0.6.1","assets":[]},
          {"tag_name":"guest-os-v0.6.0","assets":[]}])");
  ASSERT_TRUE(first && *first);
  EXPECT_EQ((*first)->tag, "guest-os-v0.6.1");
  EXPECT_FALSE(host::first_guest_release(R"([{"tag_name":"v1","assets":[]}])").value());
  EXPECT_FALSE(host::first_guest_release("{}"));
}

TEST(ReleaseJson, DeepNestingIsNoProblem) {
  EXPECT_FALSE(host::parse_release(std::string(1'000'000, '[')));
  EXPECT_FALSE(host::first_guest_release(std::string(200'000, '[') + std::string(200'000, ']')));
  EXPECT_TRUE(
      host::parse_release(R"({"tag_name":"\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[","assets":[]})"));
}

TEST(ReleaseAssetChoice, FollowsTheRules) {
  const auto release = release_with({"notes.txt", "dstack-0.6.0-uki.tar.gz", "dstack-dev-0.6.0.tar.gz",
                                     "dstack-nvidia-0.6.0.tar.gz", "dstack-0.6.0.tar.gz"});
  EXPECT_EQ(host::choose_asset(release, false)->name, "dstack-0.6.0.tar.gz");
  EXPECT_EQ(host::choose_asset(release, true)->name, "dstack-nvidia-0.6.0.tar.gz");
  EXPECT_EQ(host::choose_asset(release_with({"dstack-0.6.0.tar.gz"}), true)->name, "dstack-0.6.0.tar.gz");
  const auto none = host::choose_asset(release_with({"dstack-nvidia-0.6.0.tar.gz"}), false);
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().what(), HasSubstr("dstack-nvidia-0.6.0.tar.gz"));
}
