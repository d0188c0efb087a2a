#include "net/fetch.h"

#include <gmock/gmock.h>

#include "base/format.h"
#include "net/server.h"
#include "unit/net/test_pki.h"

namespace dstack::net {
namespace {

using base::Code;
using testing::HasSubstr;

// An https server whose certificate chains to a CA of the test's own.
class Fetch : public testing::Test {
 protected:
  Fetch() {
    m_port =
        m_server.listen_tcp("127.0.0.1", 0, ServerTls{m_leaf.certificate_pem, m_leaf.key_pem, ""}).value();
    m_plain_port = m_server.listen_tcp("127.0.0.1", 0).value();
    m_options.ca_pem = m_ca.certificate_pem;
    m_server.start();
  }
  Response answer(const Request& request) const {
    if (request.path == "/file") {
      return Response::text(200, "content");
    }
    Response out;
    out.status = 302;
    if (request.path == "/to-plain") {
      out.headers.set("Location", base::format("http://127.0.0.1:{}/file", m_plain_port));
    } else if (request.path == "/to-tls") {
      out.headers.set("Location", base::format("https://127.0.0.1:{}/file", m_port));
    } else if (request.path == "/relative") {
      out.headers.set("Location", "file?x=1");
    } else if (request.path == "/loop") {
      out.headers.set("Location", "/loop");
    }
    return out;
  }
  Url url(const std::string& path) const {
    return Url::parse(base::format("https://127.0.0.1:{}{}", m_port, path)).value();
  }

  test::Pair m_ca = test::make_certificate("ca", nullptr, "", true);
  test::Pair m_leaf = test::make_certificate("leaf", &m_ca, "IP:127.0.0.1");
  Server m_server{[this](const Request& request) { return answer(request); }};
  std::uint16_t m_port = 0;
  std::uint16_t m_plain_port = 0;
  FetchOptions m_options;
};

}  // namespace

TEST_F(Fetch, OverTls) {
  const auto fetched = fetch(url("/file"), {}, m_options);
  ASSERT_TRUE(fetched) << fetched.error().what();
  EXPECT_EQ(fetched->response.body, "content");
}

TEST_F(Fetch, FollowsRelativeRedirectsAndThoseToTls) {
  const auto relative = fetch(url("/relative"), {}, m_options);
  ASSERT_TRUE(relative) << relative.error().what();
  EXPECT_EQ(relative->url.path, "/file");
  EXPECT_EQ(relative->url.query, "x=1");
  const auto up =
      fetch(Url::parse(base::format("http://127.0.0.1:{}/to-tls", m_plain_port)).value(), {}, m_options);
  ASSERT_TRUE(up) << up.error().what();
  EXPECT_TRUE(up->url.https);
}

TEST_F(Fetch, NeverFromTlsToPlain) {
  const auto fetched = fetch(url("/to-plain"), {}, m_options);
  ASSERT_FALSE(fetched);
  EXPECT_EQ(fetched.error().code, Code::download);
  EXPECT_THAT(fetched.error().what(), HasSubstr("from https to unencrypted http"));
}

TEST_F(Fetch, LoopsEnd) {
  const auto fetched = fetch(url("/loop"), {}, m_options);
  ASSERT_FALSE(fetched);
  EXPECT_THAT(fetched.error().what(), HasSubstr("redirects more than 8 times"));
}

TEST_F(Fetch, AStrangersCertificateIsRefused) {
  m_options.ca_pem = test::make_certificate("other", nullptr, "", true).certificate_pem;
  const auto fetched = fetch(url("/file"), {}, m_options);
  ASSERT_FALSE(fetched);
  EXPECT_EQ(fetched.error().code, Code::tls);
  m_options.ca_pem.clear();  // the system's
  EXPECT_FALSE(fetch(url("/file"), {}, m_options));
}

TEST_F(Fetch, AReceiverGetsTheLastBodyOnly) {
  std::string got;
  int heads = 0;
  const BodyReceiver receiver{[&](const Response&) -> base::Result<bool> {
                                ++heads;
                                return true;
                              },
                              [&](std::string_view part) -> base::Result<> {
                                got += part;
                                return {};
                              }};
  ASSERT_TRUE(fetch(url("/relative"), {}, m_options, &receiver));
  EXPECT_EQ(got, "content");
  EXPECT_EQ(heads, 1);
  const BodyReceiver refusing{
      [&](const Response&) -> base::Result<bool> { return base::fail(Code::download, "no"); },
      receiver.on_part};
  EXPECT_EQ(fetch(url("/file"), {}, m_options, &refusing).error().code, Code::download);
  const BodyReceiver full{receiver.on_head, [&](std::string_view) -> base::Result<> {
                            return base::fail(Code::no_space, "full");
                          }};
  EXPECT_EQ(fetch(url("/file"), {}, m_options, &full).error().code, Code::no_space);
}

TEST(SystemCa, IsAListOfCertificates) {
  const auto pem = system_ca_pem();
  if (!pem) {
    GTEST_SKIP() << pem.error().what();
  }
  EXPECT_THAT(*pem, HasSubstr("-----BEGIN CERTIFICATE-----"));
}

}  // namespace dstack::net
