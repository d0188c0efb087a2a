#include "host/image_pull.h"

#include <gmock/gmock.h>

#include <fstream>

#include "base/fs.h"
#include "unit/host/image_pull_fixture.h"

using namespace dstack;
using host::test::Answer;
using host::test::Asked;
using host::test::k_asset;
using host::test::reply;
using testing::HasSubstr;

using host::test::ImagePull;
using host::test::k_tag_path;

TEST_F(ImagePull, FetchesChecksAndAdopts) {
  std::uint64_t last = 0;
  m_request.on_progress = [&](std::uint64_t done, std::optional<std::uint64_t> total) {
    EXPECT_EQ(total, m_tar.size());
    last = done;
  };
  const auto pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_EQ(pulled->image.name, "dstack-0.6.0");
  EXPECT_EQ(pulled->image.os_image_hash, crypto::sha256_hex(m_files["sha256sum.txt"]));
  EXPECT_EQ(pulled->release, "guest-os-v0.6.0");
  EXPECT_EQ(last, m_tar.size());
  EXPECT_THAT(leftovers(), testing::ElementsAre("dstack-0.6.0"));
  const auto asked = m_server.asked();
  EXPECT_EQ(asked.front().headers.at("user-agent"), "dstackup");
  EXPECT_EQ(asked.front().headers.at("accept"), "application/vnd.github+json");

  const auto again = host::pull_image(m_request);
  ASSERT_TRUE(again);
  EXPECT_TRUE(again->unchanged);
  EXPECT_EQ(m_server.asked().size(), 3U);  // one look-up more, no download

  m_request.force = true;
  const auto forced = host::pull_image(m_request);
  ASSERT_TRUE(forced) << forced.error().what();
  EXPECT_FALSE(forced->unchanged);
  EXPECT_THAT(leftovers(), testing::ElementsAre("dstack-0.6.0"));
}

TEST_F(ImagePull, WithoutAVersionTheLatestGuestRelease) {
  m_request.version.reset();
  EXPECT_TRUE(host::pull_image(m_request));
}

TEST_F(ImagePull, WithoutAGuestReleaseTheOldRepository) {
  m_request.version.reset();
  m_api = [this](const Asked& asked) -> Answer {
    if (asked.target.starts_with("/repos/Dstack-TEE/dstack/")) {
      return {reply(200, "[]")};
    }
    return {asked.target == "/repos/Dstack-TEE/meta-dstack/releases/latest"
                ? reply(200, json("v0.5.4", digest()))
                : reply(404, "")};
  };
  const auto pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_EQ(pulled->release, "v0.5.4");
}

TEST_F(ImagePull, PrefixedEntriesAreFine) {
  m_tar = host::test::image_tar(m_files, "dstack-0.6.0", "./");
  EXPECT_TRUE(host::pull_image(m_request));
}

TEST_F(ImagePull, BadVersionsAskNobody) {
  m_request.version = "../../x";
  EXPECT_THAT(failure(), HasSubstr("is not a release version"));
  EXPECT_TRUE(m_server.asked().empty());
}

TEST_F(ImagePull, RefusalsSayWhatTheyMean) {
  m_api = [](const Asked&) -> Answer { return {reply(404, "")}; };
  EXPECT_THAT(failure(), HasSubstr("does not have the release 0.6.0"));
  m_api = [](const Asked&) -> Answer {
    return {reply(403, "{}", "X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 1700000000\r\n")};
  };
  EXPECT_THAT(failure(), HasSubstr("too many requests from this address until 22:13 UTC"));
  m_api = [](const Asked&) -> Answer { return {reply(403, "{}")}; };
  EXPECT_THAT(failure(), HasSubstr("answers 403"));
  m_api = [](const Asked&) -> Answer { return {reply(500, "{}")}; };
  EXPECT_THAT(failure(), HasSubstr("answers 500"));
  m_api = [](const Asked&) -> Answer { return {"HTTP/1.1 200 OK\r\n"}; };
  EXPECT_THAT(failure(), HasSubstr("cannot look up"));
}

TEST_F(ImagePull, AnswersThatAreNoReleases) {
  m_api = [](const Asked&) -> Answer {
    return {reply(200, "<html>log in</html>", "Content-Type: text/html\r\n")};
  };
  EXPECT_THAT(failure(), HasSubstr("not JSON"));
  m_api = [this](const Asked&) -> Answer { return {reply(200, json("guest-os-v0.5.9", digest()))}; };
  EXPECT_THAT(failure(), HasSubstr("another release"));
  m_api = [](const Asked&) -> Answer {
    return {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{"};  // huge, or so it says
  };
  EXPECT_NE(failure(), "success");
  m_api = [](const Asked&) -> Answer { return {"HTTP/1.1 200 OK\r\n\r\n" + std::string(20 << 20, ' ')}; };
  EXPECT_THAT(failure(), HasSubstr("larger"));
  m_api = [this](const Asked&) -> Answer {
    return {reply(200, host::test::release_json("guest-os-v0.6.0", "../../dstack-0.6.0.tar.gz",
                                                m_server.url("/files/x"), digest()))};
  };
  EXPECT_THAT(failure(), HasSubstr("has no guest image"));
  m_api = [this](const Asked&) -> Answer {
    return {reply(200, host::test::release_json("guest-os-v0.6.0", k_asset, "file:///etc/passwd", digest()))};
  };
  EXPECT_THAT(failure(), HasSubstr("address for dstack-0.6.0.tar.gz is not usable"));
}

TEST_F(ImagePull, ADigestIsNeeded) {
  m_api = [this](const Asked&) -> Answer { return {reply(200, json("guest-os-v0.6.0", ""))}; };
  EXPECT_THAT(failure(), HasSubstr("names no sha256"));
  EXPECT_EQ(m_server.asked().size(), 1U);  // found out before the download
  m_request.insecure = true;
  EXPECT_TRUE(host::pull_image(m_request));
  EXPECT_THAT(m_report, HasSubstr("--insecure"));
}

TEST_F(ImagePull, AWrongDigestLeavesNothing) {
  m_api = [this](const Asked&) -> Answer {
    return {reply(200, json("guest-os-v0.6.0", std::string(64, '0')))};
  };
  EXPECT_THAT(failure(), HasSubstr("is not the file that the release names"));
  EXPECT_TRUE(leftovers().empty());
}

TEST_F(ImagePull, ImagesThatAreNotInOrderAreNotTaken) {
  const auto with = [&](const std::string& name, const std::string& data) {
    auto files = m_files;
    files[name] = data;
    m_tar = host::test::image_tar(files);
    return failure();
  };
  EXPECT_THAT(with("sha256sum.txt", std::string(64, 'a') + "  bzImage\n"),
              HasSubstr("digest.txt is not the sha256"));
  EXPECT_THAT(with("digest.txt", std::string(64, 'a')), HasSubstr("digest.txt is not the sha256"));
  EXPECT_THAT(with("bzImage", "other"), HasSubstr("bzImage was changed"));
  EXPECT_THAT(with("extra", "x"), HasSubstr("does not list extra"));
  EXPECT_THAT(with("metadata.json", "{"), HasSubstr("metadata.json"));
  m_files.erase("ovmf.fd");
  EXPECT_THAT(with("digest.txt", m_files["digest.txt"]), HasSubstr("ovmf.fd is missing"));
  EXPECT_TRUE(leftovers().empty());
}

TEST_F(ImagePull, ArchivesThatAreNoImagesAreNotTaken) {
  m_tar = host::test::make_tar({{"x/y", "z", AE_IFREG, 0644, "", ""}});
  EXPECT_THAT(failure(), HasSubstr("is not a guest image"));
  m_tar = host::test::make_tar({{"../y", "z", AE_IFREG, 0644, "", ""}});
  EXPECT_THAT(failure(), HasSubstr("leads out"));
  m_tar = "not an archive at all";
  EXPECT_THAT(failure(), HasSubstr("damaged"));
  m_tar = host::test::image_tar(m_files);
  m_request.limits.max_total = 1000;
  EXPECT_THAT(failure(), HasSubstr("more than 1000 bytes"));
  EXPECT_TRUE(leftovers().empty());
}

TEST_F(ImagePull, AnArchiveCannotReplaceAnotherImage) {
  ASSERT_TRUE(host::pull_image(m_request));
  // The asset of another name holds the image that is there.
  m_api = [this](const Asked&) -> Answer {
    return {reply(200, host::test::release_json("guest-os-v0.6.0", "dstack-other.tar.gz",
                                                m_server.url("/files/" + std::string(k_asset)), digest()))};
  };
  const auto pulled = host::pull_image(m_request);
  ASSERT_FALSE(pulled);
  EXPECT_THAT(pulled.error().what(), HasSubstr("there already"));
}

TEST_F(ImagePull, ThePinnedImageIsOnlyReplacedByItself) {
  m_request.force = true;
  m_request.use.pinned_name = "dstack-0.6.0";
  m_request.use.pinned_hash = std::string(64, '1');
  EXPECT_THAT(failure(), HasSubstr("is pinned"));
  m_request.use.pinned_hash = crypto::sha256_hex(m_files["sha256sum.txt"]);
  EXPECT_TRUE(host::pull_image(m_request));
}

// An image without sums was taken before its name was compared with the pin.
TEST_F(ImagePull, InsecureAndForceDoNotReplaceThePinnedImage) {
  m_files.erase("sha256sum.txt");
  m_files.erase("digest.txt");
  m_tar = host::test::image_tar(m_files);
  m_request.force = m_request.insecure = true;
  m_request.use.pinned_name = "dstack-0.6.0";
  m_request.use.pinned_hash = std::string(64, '1');
  EXPECT_THAT(failure(), HasSubstr("is pinned"));
  m_request.use = {};
  EXPECT_TRUE(host::pull_image(m_request));
}

TEST_F(ImagePull, ForceDoesNotReplaceAnotherImageThatVmsUse) {
  ASSERT_TRUE(host::pull_image(m_request));
  m_request.force = true;
  const test::TempDir vms;
  std::filesystem::create_directory(vms / "a");
  std::ofstream(vms / "a/vm-manifest.json") << R"({"name":"web","image":"dstack-0.6.0"})";
  m_request.use.vms = vms.path();
  EXPECT_TRUE(host::pull_image(m_request)) << "the same image";
  const auto before = m_files["digest.txt"];
  m_files = host::test::image_files("0.6.1");
  m_tar = host::test::image_tar(m_files);
  const auto pulled = host::pull_image(m_request);
  ASSERT_FALSE(pulled);
  EXPECT_EQ(pulled.error().code, base::Code::image_in_use);
  EXPECT_THAT(pulled.error().what(), HasSubstr("VMs use it: web"));
  EXPECT_EQ(base::read_file(m_dir / "dstack-0.6.0/digest.txt").value_or(""), before);
  m_request.use = {};
  EXPECT_TRUE(host::pull_image(m_request));
}

// It was exchanged for the image and removed with the staging directory.
TEST_F(ImagePull, SomebodysDirectoryIsNotReplacedWithoutForce) {
  std::filesystem::create_directory(m_dir / "dstack-0.6.0");
  std::ofstream(m_dir / "dstack-0.6.0/mine") << "mine";
  const auto refused = host::pull_image(m_request);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what(), HasSubstr("there already"));
  EXPECT_EQ(m_server.asked().size(), 1U) << "found out before the download";
  EXPECT_EQ(base::read_file(m_dir / "dstack-0.6.0/mine").value_or(""), "mine");

  // Also when the archive turns out to hold that name.
  m_api = [this](const Asked&) -> Answer {
    return {reply(200, host::test::release_json("guest-os-v0.6.0", "dstack-other.tar.gz",
                                                m_server.url("/files/" + std::string(k_asset)), digest()))};
  };
  EXPECT_FALSE(host::pull_image(m_request));
  EXPECT_EQ(base::read_file(m_dir / "dstack-0.6.0/mine").value_or(""), "mine");
  m_request.force = true;
  EXPECT_TRUE(host::pull_image(m_request));
}
