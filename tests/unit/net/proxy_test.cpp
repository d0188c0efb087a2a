#include "net/proxy.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "net/fetch.h"
#include "net/listen.h"
#include "net/server.h"
#include "unit/net/test_pki.h"

namespace dstack::net {
namespace {

using base::Code;
using testing::HasSubstr;
using testing::Not;
using Variables = std::map<std::string, std::string>;

Environment environment(Variables variables) {
  return [variables = std::move(variables)](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
}

// The proxy's address, "" for none, or the error's text.
std::string chosen(const std::string& url, const Variables& variables) {
  const auto proxy = proxy_for(Url::parse(url).value(), environment(variables));
  if (!proxy) {
    return proxy.error().what();
  }
  return *proxy ? (*proxy)->endpoint.to_string() : "";
}

TEST(ProxyFor, EachSchemeHasItsVariable) {
  EXPECT_EQ(chosen("https://a.example/", {}), "");
  EXPECT_EQ(chosen("https://a.example/", {{"https_proxy", "http://p:3128"}}), "http://p:3128");
  EXPECT_EQ(chosen("https://a.example/", {{"HTTPS_PROXY", "http://p:3128/"}}), "http://p:3128");
  EXPECT_EQ(chosen("https://a.example/", {{"https_proxy", "http://p"}, {"HTTPS_PROXY", "http://q"}}),
            "http://p:80");
  EXPECT_EQ(chosen("https://a.example/", {{"https_proxy", ""}}), "");
  EXPECT_EQ(chosen("https://a.example/", {{"https_proxy", "p:3128"}}), "http://p:3128");
  EXPECT_EQ(chosen("https://a.example/", {{"http_proxy", "http://p:3128"}}), "");
  EXPECT_EQ(chosen("http://a.example/", {{"http_proxy", "http://p:3128"}}), "http://p:3128");
  EXPECT_EQ(chosen("http://a.example/", {{"https_proxy", "http://p:3128"}}), "");
  EXPECT_EQ(chosen("http://a.example/", {{"HTTP_PROXY", "http://p:3128"}}), "") << "a request's header";
}

TEST(ProxyFor, NoProxyNamesHostsAndWhatIsBelowThem) {
  const auto direct = [](const std::string& url, const std::string& no_proxy) {
    return chosen(url, {{"https_proxy", "http://p"}, {"no_proxy", no_proxy}}).empty();
  };
  EXPECT_TRUE(direct("https://a.example/", "*"));
  EXPECT_TRUE(direct("https://a.example/", "b.example, A.Example"));
  EXPECT_TRUE(direct("https://x.a.example/", "a.example"));
  EXPECT_TRUE(direct("https://x.a.example/", ".a.example"));
  EXPECT_TRUE(direct("https://a.example:8443/", "a.example:8443"));
  EXPECT_TRUE(direct("https://192.0.2.7/", "192.0.2.7"));
  EXPECT_TRUE(direct("https://[2001:db8::1]/", "[2001:db8::1]"));
  EXPECT_FALSE(direct("https://a.example/", "a.example:8443"));
  EXPECT_FALSE(direct("https://xa.example/", "a.example"));
  EXPECT_FALSE(direct("https://example/", "a.example"));
  EXPECT_FALSE(direct("https://a.example/", " ,,."));
  EXPECT_EQ(chosen("https://a.example/", {{"https_proxy", "http://p"}, {"NO_PROXY", "a.example"}}), "");
  EXPECT_EQ(chosen("https://localhost/", {{"https_proxy", "http://p"}}), "");
  EXPECT_EQ(chosen("https://127.0.0.1/", {{"https_proxy", "http://p"}}), "");
  EXPECT_EQ(chosen("https://[::1]/", {{"https_proxy", "http://p"}}), "");
}

TEST(ProxyFor, AUserIsSentAndNeverShown) {
  const auto proxy = proxy_for(Url::parse("https://a.example/").value(),
                               environment({{"https_proxy", "http://Aladdin:open%20sesame@p:3128"}}));
  ASSERT_TRUE(proxy);
  EXPECT_EQ((*proxy)->endpoint.to_string(), "http://p:3128");
  // RFC 7617, section 2.
  EXPECT_EQ((*proxy)->authorization, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
  for (const auto* bad :
       {"https://u:canary@p:1", "socks5://u:canary@p", "http://u:canary@p/path", "u:canary@"}) {
    EXPECT_THAT(chosen("https://a.example/", {{"https_proxy", bad}}),
                testing::AllOf(HasSubstr("https_proxy does not name a proxy"), Not(HasSubstr("canary"))))
        << bad;
  }
}

// Connects to whatever is asked for, at 127.0.0.1; one connection after the other.
class Tunnel {
 public:
  explicit Tunnel(std::string answer = "HTTP/1.1 200 Connection established\r\n\r\n")
      : m_listener(listen_on_tcp("127.0.0.1", 0).value()), m_answer(std::move(answer)) {
    m_thread = std::thread([this] { serve(); });
  }
  ~Tunnel() {
    ::shutdown(m_listener.fd.get(), SHUT_RDWR);
    m_thread.join();
  }
  std::string address() const { return base::format("127.0.0.1:{}", m_listener.port); }
  // To be read when the exchange is over.
  const std::string& heads() const { return m_heads; }

 private:
  void serve() {
    while (true) {
      pollfd entry{m_listener.fd.get(), POLLIN, 0};
      ::poll(&entry, 1, -1);
      const base::Fd client(::accept(m_listener.fd.get(), nullptr, nullptr));
      if (!client) {
        return;
      }
      std::string head;
      for (char c = 0; !head.ends_with("\r\n\r\n") && ::recv(client.get(), &c, 1, 0) == 1;) {
        head += c;
      }
      m_heads += head;
      ::send(client.get(), m_answer.data(), m_answer.size(), MSG_NOSIGNAL);
      const auto colon = head.find(':');
      if (!m_answer.starts_with("HTTP/1.1 2") || colon == std::string::npos) {
        continue;
      }
      const base::Fd server(::socket(AF_INET, SOCK_STREAM, 0));
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_port = htons(static_cast<std::uint16_t>(std::stoi(head.substr(colon + 1))));
      to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      if (::connect(server.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) {
        while (copy(client, server)) {
        }
      }
    }
  }
  static bool copy(const base::Fd& a, const base::Fd& b) {
    pollfd entries[2] = {{a.get(), POLLIN, 0}, {b.get(), POLLIN, 0}};
    ::poll(entries, 2, -1);
    char buffer[4096];
    const bool first = entries[0].revents != 0;
    const ssize_t count = ::recv(first ? a.get() : b.get(), buffer, sizeof buffer, 0);
    return count > 0 &&
           ::send(first ? b.get() : a.get(), buffer, static_cast<std::size_t>(count), MSG_NOSIGNAL) == count;
  }

  ListenSocket m_listener;
  std::string m_answer;
  std::string m_heads;
  std::thread m_thread;
};

// A server whose name nothing resolves: only a proxy can reach it.
struct ThroughProxy : testing::Test {
  ThroughProxy() {
    port = server.listen_tcp("127.0.0.1", 0, ServerTls{leaf.certificate_pem, leaf.key_pem, ""}).value();
    options.ca_pem = ca.certificate_pem;
    server.start();
  }
  auto get(Variables variables) {
    options.environment = environment(std::move(variables));
    return fetch(Url::parse(base::format("https://releases.invalid:{}/file", port)).value(), {}, options);
  }
  test::Pair ca = test::make_certificate("ca", nullptr, "", true);
  test::Pair leaf = test::make_certificate("leaf", &ca, "DNS:releases.invalid");
  Server server{[](const Request& request) { return Response::text(200, "you asked for " + request.path); }};
  std::uint16_t port = 0;
  FetchOptions options;
};

TEST_F(ThroughProxy, TlsGoesThroughATunnelAndIsChecked) {
  const Tunnel tunnel;
  const auto fetched = get({{"https_proxy", "http://user:secret@" + tunnel.address()}});
  ASSERT_TRUE(fetched) << fetched.error().what();
  EXPECT_EQ(fetched->response.body, "you asked for /file");
  EXPECT_EQ(tunnel.heads(),
            base::format("CONNECT releases.invalid:{0} HTTP/1.1\r\nHost: releases.invalid:{0}\r\n"
                         "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\r\n",
                         port));
}

TEST_F(ThroughProxy, AnotherCertificateIsRefused) {
  const Tunnel tunnel;
  options.ca_pem = test::make_certificate("other", nullptr, "", true).certificate_pem;
  const auto fetched = get({{"https_proxy", tunnel.address()}});
  ASSERT_FALSE(fetched);
  EXPECT_EQ(fetched.error().code, Code::tls);
}

TEST_F(ThroughProxy, ARefusalSaysWhy) {
  const Tunnel tunnel("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 5\r\n\r\nplain");
  const auto fetched = get({{"https_proxy", "http://user:canary@" + tunnel.address()}});
  ASSERT_FALSE(fetched);
  EXPECT_EQ(fetched.error().code, Code::connect_failed);
  EXPECT_THAT(fetched.error().what(), HasSubstr("HTTP 407: it wants a user name and a password"));
  EXPECT_THAT(fetched.error().what(), Not(HasSubstr("canary")));
  EXPECT_THAT(fetched.error().fix, HasSubstr("https_proxy"));
}

TEST_F(ThroughProxy, WhatIsNoProxyIsToldApart) {
  for (const auto* answer :
       {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "", "HTTP/1.1 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\n"}) {
    const Tunnel tunnel(answer);
    const auto fetched = get({{"https_proxy", tunnel.address()}});
    ASSERT_FALSE(fetched) << answer;
    EXPECT_THAT(fetched.error().what(), HasSubstr("the proxy http://" + tunnel.address())) << answer;
  }
}

TEST_F(ThroughProxy, AProxyThatIsNotThereIsNamed) {
  const auto fetched = get({{"https_proxy", "http://127.0.0.1:1"}});
  ASSERT_FALSE(fetched);
  EXPECT_THAT(fetched.error().what(), HasSubstr("nothing answers at the proxy http://127.0.0.1:1"));
}

TEST(HttpProxy, IsToldTheWholeUrl) {
  Request seen;
  Server proxy([&](const Request& request) {
    seen = request;
    return Response::text(200, "from the proxy");
  });
  const auto port = proxy.listen_tcp("127.0.0.1", 0).value();
  proxy.start();
  FetchOptions options;
  options.environment = environment({{"http_proxy", base::format("http://u:p@127.0.0.1:{}", port)}});
  const auto fetched = fetch(Url::parse("http://mirror.invalid/repos/a?x=1").value(), {}, options);
  ASSERT_TRUE(fetched) << fetched.error().what();
  EXPECT_EQ(fetched->response.body, "from the proxy");
  EXPECT_EQ(seen.headers.get("Host"), "mirror.invalid:80");
  EXPECT_EQ(seen.headers.get("Proxy-Authorization"), "Basic dTpw");
  EXPECT_EQ(seen.path, "/repos/a");
  EXPECT_EQ(seen.query, "x=1");
}

}  // namespace
}  // namespace dstack::net
