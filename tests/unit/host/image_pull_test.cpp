#include "host/image_pull.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>

#include <fstream>

#include "base/fs.h"
#include "host/download.h"
#include "unit/host/release_server.h"
#include "unit/temp_dir.h"

using namespace dstack;
using namespace std::chrono_literals;
using host::test::ReleaseServer;
using host::test::reply;
using testing::HasSubstr;

namespace {

using Answer = ReleaseServer::Answer;
using Asked = ReleaseServer::Asked;

constexpr const char* k_tag_path = "/repos/Dstack-TEE/dstack/releases/tags/guest-os-v0.6.0";
constexpr const char* k_asset = "dstack-0.6.0.tar.gz";

// A server that is honest but for what a test replaces.
class ImagePull : public testing::Test {
 protected:
  ImagePull() {
    m_request.images = m_dir.path();
    m_request.api = m_server.url("/repos");
    m_request.version = "0.6.0";
    m_request.retries = 0;
    m_request.pause = 0ms;
    m_request.fetch.timeout = 2s;
    m_request.report = [this](std::string_view line) { m_report += std::string(line) + "\n"; };
    m_request.warn = m_request.report;
  }

  Answer answer(const Asked& asked) {
    if (asked.target == "/files/" + std::string(k_asset)) {
      return m_file ? m_file(asked) : Answer{host::test::serve_file(asked, m_tar, m_etag)};
    }
    if (m_api) {
      return m_api(asked);
    }
    if (asked.target == k_tag_path) {
      return {reply(200, json("guest-os-v0.6.0", digest()))};
    }
    if (asked.target == "/repos/Dstack-TEE/dstack/releases?per_page=100") {
      return {reply(200, "[" + json("guest-os-v0.6.0", digest()) + "]")};
    }
    return {reply(404, "{}")};
  }
  std::string json(const std::string& tag, const std::string& digest) const {
    return host::test::release_json(tag, k_asset, m_server.url("/files/" + std::string(k_asset)), digest);
  }
  std::string digest() const { return "sha256:" + crypto::sha256_hex(m_tar); }

  std::string failure() {
    const auto pulled = host::pull_image(m_request);
    EXPECT_FALSE(std::filesystem::exists(m_dir / "dstack-0.6.0"));
    EXPECT_FALSE(std::filesystem::exists(m_dir / base::format(".{}.staging", k_asset)));
    return pulled ? "success" : pulled.error().what();
  }
  bool partial_left() const { return std::filesystem::exists(m_dir / base::format(".{}.partial", k_asset)); }
  // What a broken-off download leaves.
  void leave_partial(const std::string& bytes, const std::string& note) const {
    std::ofstream(m_dir / base::format(".{}.partial", k_asset)) << bytes;
    std::ofstream(m_dir / base::format(".{}.partial.json", k_asset)) << note;
  }
  std::string good_note() const {
    return base::format(R"({{"sha256":"{}","url":"{}","etag":"\"{}\"","size":{}}})",
                        crypto::sha256_hex(m_tar), m_server.url("/files/" + std::string(k_asset)), m_etag,
                        m_tar.size());
  }
  std::vector<std::string> leftovers() const {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(m_dir.path())) {
      out.push_back(entry.path().filename().string());
    }
    return out;
  }

  test::TempDir m_dir;
  std::map<std::string, std::string> m_files = host::test::image_files();
  std::string m_tar = host::test::image_tar(m_files);
  std::string m_etag = "one";
  std::function<Answer(const Asked&)> m_api;
  std::function<Answer(const Asked&)> m_file;
  std::string m_report;
  ReleaseServer m_server{[this](const Asked& asked) { return answer(asked); }};
  host::PullImage m_request;
};

}  // namespace

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

TEST_F(ImagePull, RedirectsAreFollowedButNotForEver) {
  m_file = [this, hops = 0](const Asked& asked) mutable -> Answer {
    if (++hops <= 3) {
      return {reply(302, "", "Location: /files/" + std::string(k_asset) + "\r\n")};
    }
    return {host::test::serve_file(asked, m_tar, m_etag)};
  };
  EXPECT_TRUE(host::pull_image(m_request));
  std::filesystem::remove_all(m_dir / "dstack-0.6.0");
  m_file = [](const Asked& asked) -> Answer {
    return {reply(302, "", "Location: " + asked.target + "\r\n")};
  };
  EXPECT_THAT(failure(), HasSubstr("redirects more than"));
  m_file = [](const Asked&) -> Answer { return {reply(302, "", "Location: file:///etc/shadow\r\n")}; };
  EXPECT_THAT(failure(), HasSubstr("not a web address"));
  m_file = [](const Asked&) -> Answer { return {reply(302, "")}; };
  EXPECT_THAT(failure(), HasSubstr("redirects to nowhere"));
}

TEST_F(ImagePull, AWebPageInsteadOfTheFile) {
  m_file = [](const Asked&) -> Answer { return {reply(200, "<html>", "Content-Type: text/html\r\n")}; };
  EXPECT_THAT(failure(), HasSubstr("web page"));
  EXPECT_FALSE(partial_left());
}

TEST_F(ImagePull, ATruncatedBodyIsKeptAndContinued) {
  m_file = [this](const Asked& asked) -> Answer {
    const auto whole = host::test::serve_file(asked, m_tar, m_etag);
    return {whole, whole.size() - m_tar.size() / 2};
  };
  EXPECT_THAT(failure(), HasSubstr("broke off"));
  EXPECT_TRUE(partial_left());
  m_file = nullptr;
  const auto pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_TRUE(pulled->resumed);
  const auto last = m_server.asked().back();
  EXPECT_EQ(last.headers.at("range"), base::format("bytes={}-", m_tar.size() - m_tar.size() / 2));
  EXPECT_EQ(last.headers.at("if-range"), "\"one\"");
  EXPECT_THAT(leftovers(), testing::ElementsAre("dstack-0.6.0"));
}

TEST_F(ImagePull, BrokenConnectionsAreRetriedWhileTheyGetSomewhere) {
  m_request.retries = 5;
  m_file = [this](const Asked& asked) -> Answer {
    const auto whole = host::test::serve_file(asked, m_tar, m_etag);
    return {whole, whole.find("\r\n\r\n") + 4 + m_tar.size() / 3};
  };
  EXPECT_TRUE(host::pull_image(m_request));
}

TEST_F(ImagePull, WrongLengthsAreNoticed) {
  m_file = [this](const Asked&) -> Answer {
    return {base::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", m_tar.size() + 10, m_tar)};
  };
  EXPECT_THAT(failure(), HasSubstr("broke off"));
  EXPECT_TRUE(host::discard_download(m_dir.path(), k_asset));
  m_file = [this](const Asked&) -> Answer {
    return {base::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", m_tar.size() - 10, m_tar)};
  };
  EXPECT_THAT(failure(), HasSubstr("is not the file"));
  m_file = [](const Asked&) -> Answer {
    return {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\nx"};
  };
  EXPECT_THAT(failure(), HasSubstr("larger"));
}

TEST_F(ImagePull, EndlessBodiesEnd) {
  m_request.max_download = 100'000;
  m_file = [](const Asked&) -> Answer { return {"HTTP/1.1 200 OK\r\n\r\n" + std::string(1'000'000, 'x')}; };
  EXPECT_THAT(failure(), HasSubstr("more than 100000 bytes"));
}

TEST_F(ImagePull, AServerThatIgnoresRangeStartsOver) {
  leave_partial(m_tar.substr(0, 1000), good_note());
  m_file = [this](const Asked&) -> Answer { return {reply(200, m_tar)}; };
  const auto pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_FALSE(pulled->resumed);
  EXPECT_THAT(m_report, HasSubstr("sends the whole file"));
}

TEST_F(ImagePull, AnotherRangeThanAskedForStartsOver) {
  leave_partial(m_tar.substr(0, 1000), good_note());
  m_file = [this](const Asked& asked) -> Answer {
    if (!asked.headers.contains("range")) {
      return {reply(200, m_tar)};
    }
    return {reply(206, m_tar.substr(500),
                  base::format("Content-Range: bytes 500-{}/{}\r\n", m_tar.size() - 1, m_tar.size()))};
  };
  const auto pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_THAT(m_report, HasSubstr("another part"));
}

TEST_F(ImagePull, A206ThatNobodyAskedForIsRefused) {
  m_file = [this](const Asked&) -> Answer {
    return {
        reply(206, m_tar, base::format("Content-Range: bytes 0-{}/{}\r\n", m_tar.size() - 1, m_tar.size()))};
  };
  EXPECT_THAT(failure(), HasSubstr("another part"));
}

TEST_F(ImagePull, AnAssetThatChangedBetweenAttemptsStartsOver) {
  // Same digest in the release, other bytes at the beginning: the digest tells.
  leave_partial(std::string(1000, 'x'), good_note());
  auto pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_THAT(m_report, HasSubstr("does not have the right digest"));
  std::filesystem::remove_all(m_dir / "dstack-0.6.0");

  // The release names another digest now: what is there is not even looked at.
  leave_partial(std::string(1000, 'x'), R"({"sha256":"00","url":"x","etag":"\"one\"","size":5})");
  m_report.clear();
  pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_THAT(m_report, testing::Not(HasSubstr("starting over")));
  std::filesystem::remove_all(m_dir / "dstack-0.6.0");

  // Another ETag: the server itself says so by sending the whole.
  leave_partial(m_tar.substr(0, 1000), good_note());
  m_etag = "two";
  pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_FALSE(pulled->resumed);
  std::filesystem::remove_all(m_dir / "dstack-0.6.0");

  // A note that is no note, and a part that is longer than the whole.
  for (const std::string& note : {std::string("{"), std::string("[]"), good_note()}) {
    leave_partial(std::string(m_tar.size() + 5, 'x'), note);
    EXPECT_TRUE(host::pull_image(m_request)) << note;
    std::filesystem::remove_all(m_dir / "dstack-0.6.0");
  }
}

TEST_F(ImagePull, ACompletePartialNeedsNoDownload) {
  leave_partial(m_tar, good_note());
  ASSERT_TRUE(host::pull_image(m_request));
  EXPECT_EQ(m_server.asked().size(), 1U);
}

TEST_F(ImagePull, KilledInTheMiddleThenContinued) {
  // A child is killed while the second half is still to come.
  std::atomic<bool> hold = true;
  m_file = [&](const Asked& asked) -> Answer {
    const auto whole = host::test::serve_file(asked, m_tar, m_etag);
    return hold ? Answer{whole, whole.size() - m_tar.size() / 2} : Answer{whole};
  };
  const auto child = ::fork();
  if (child == 0) {
    m_request.on_progress = [&](std::uint64_t done, std::optional<std::uint64_t>) {
      if (done >= m_tar.size() / 3) {
        ::raise(SIGKILL);
      }
    };
    (void)host::pull_image(m_request);
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_TRUE(partial_left());
  // And a staging directory of an unpacking that was killed.
  std::filesystem::create_directories(m_dir / base::format(".{}.staging/x", k_asset));
  hold = false;
  const auto pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_TRUE(pulled->resumed);
  EXPECT_THAT(leftovers(), testing::ElementsAre("dstack-0.6.0"));
}

TEST_F(ImagePull, TwoAtOnce) {
  const auto path = m_dir / base::format(".{}.partial", k_asset);
  std::ofstream(path) << "x";
  const auto lock = base::FileLock::try_acquire(path);
  ASSERT_TRUE(lock && *lock);
  EXPECT_THAT(failure(), HasSubstr("another process downloads"));
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

TEST(ContentRange, Forms) {
  const auto range = host::parse_content_range("bytes 5-9/10");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 5U);
  EXPECT_EQ(range->last, 9U);
  EXPECT_EQ(range->total, 10U);
  EXPECT_FALSE(host::parse_content_range("bytes 5-9/*")->total);
  for (const char* text :
       {"", "bytes", "bytes 5-9", "bytes 9-5/10", "bytes 5-10/10", "bytes -5/10", "bytes 5-/10",
        "lines 5-9/10", "bytes 5-9/x", "bytes 5-9/99999999999999999999", "bytes 5/9-10"}) {
    EXPECT_FALSE(host::parse_content_range(text)) << text;
  }
}
