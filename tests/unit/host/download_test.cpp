#include "host/download.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>

#include <fstream>

#include "base/fs.h"
#include "unit/host/image_pull_fixture.h"

using namespace std::chrono_literals;
using namespace dstack;
using host::test::Answer;
using host::test::Asked;
using host::test::k_asset;
using host::test::reply;
using testing::HasSubstr;

namespace {

// Seen through the image that is fetched.
class Download : public host::test::ImagePull {};

}  // namespace

TEST_F(Download, RedirectsAreFollowedButNotForEver) {
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

TEST_F(Download, AWebPageInsteadOfTheFile) {
  m_file = [](const Asked&) -> Answer { return {reply(200, "<html>", "Content-Type: text/html\r\n")}; };
  EXPECT_THAT(failure(), HasSubstr("web page"));
  EXPECT_FALSE(partial_left());
}

TEST_F(Download, ATruncatedBodyIsKeptAndContinued) {
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

TEST_F(Download, BrokenConnectionsAreRetriedWhileTheyGetSomewhere) {
  m_request.retries = 5;
  m_file = [this](const Asked& asked) -> Answer {
    const auto whole = host::test::serve_file(asked, m_tar, m_etag);
    return {whole, whole.find("\r\n\r\n") + 4 + m_tar.size() / 3};
  };
  EXPECT_TRUE(host::pull_image(m_request));
}

TEST_F(Download, WrongLengthsAreNoticed) {
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

TEST_F(Download, EndlessBodiesEnd) {
  m_request.max_download = 100'000;
  m_file = [](const Asked&) -> Answer { return {"HTTP/1.1 200 OK\r\n\r\n" + std::string(1'000'000, 'x')}; };
  EXPECT_THAT(failure(), HasSubstr("more than 100000 bytes"));
}

TEST_F(Download, AServerThatIgnoresRangeStartsOver) {
  leave_partial(m_tar.substr(0, 1000), good_note());
  m_file = [this](const Asked&) -> Answer { return {reply(200, m_tar)}; };
  const auto pulled = host::pull_image(m_request);
  ASSERT_TRUE(pulled) << pulled.error().what();
  EXPECT_FALSE(pulled->resumed);
  EXPECT_THAT(m_report, HasSubstr("sends the whole file"));
}

TEST_F(Download, AnotherRangeThanAskedForStartsOver) {
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

TEST_F(Download, A206ThatNobodyAskedForIsRefused) {
  m_file = [this](const Asked&) -> Answer {
    return {
        reply(206, m_tar, base::format("Content-Range: bytes 0-{}/{}\r\n", m_tar.size() - 1, m_tar.size()))};
  };
  EXPECT_THAT(failure(), HasSubstr("another part"));
}

TEST_F(Download, AnAssetThatChangedBetweenAttemptsStartsOver) {
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

TEST_F(Download, ACompletePartialNeedsNoDownload) {
  leave_partial(m_tar, good_note());
  ASSERT_TRUE(host::pull_image(m_request));
  EXPECT_EQ(m_server.asked().size(), 1U);
}

TEST_F(Download, KilledInTheMiddleThenContinued) {
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

TEST_F(Download, TwoAtOnce) {
  const auto path = m_dir / base::format(".{}.partial", k_asset);
  std::ofstream(path) << "x";
  const auto lock = base::FileLock::try_acquire(path);
  ASSERT_TRUE(lock && *lock);
  EXPECT_THAT(failure(), HasSubstr("another process downloads"));
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
