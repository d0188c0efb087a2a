#include "net/tls.h"

#include <gmock/gmock.h>

#include <thread>

#include "net/client.h"
#include "net/server.h"
#include "unit/net/raw_socket.h"
#include "unit/net/test_pki.h"

namespace dstack::net {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class Tls : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    s_ca = new test::Pair(test::make_certificate("test ca", nullptr, "", true));
    s_other_ca = new test::Pair(test::make_certificate("other ca", nullptr, "", true));
    s_server = new test::Pair(test::make_certificate("server", s_ca, "DNS:kms.test,IP:127.0.0.1"));
    s_client = new test::Pair(test::make_certificate("client", s_ca, ""));
    s_foreign = new test::Pair(test::make_certificate("foreign", s_other_ca, "DNS:kms.test,IP:127.0.0.1"));
    s_expired = new test::Pair(test::make_certificate("expired", s_ca, "IP:127.0.0.1", false, -3600));
    s_elsewhere =
        new test::Pair(test::make_certificate("127.0.0.1", s_ca, "DNS:elsewhere.test,IP:127.0.0.2"));
  }

  static std::unique_ptr<Server> serve(const test::Pair& identity, std::string client_ca,
                                       std::uint16_t& port) {
    ServerOptions options;
    options.workers = 0;
    options.header_timeout = 1000ms;
    auto server = std::make_unique<Server>(
        [](const Request& request) {
          return Response::text(200, base::to_hex(request.peer.certificate_der));
        },
        options);
    const auto bound = server->listen_tcp(
        "127.0.0.1", 0, ServerTls{identity.certificate_pem, identity.key_pem, std::move(client_ca)});
    EXPECT_TRUE(bound) << bound.error().what();
    port = bound.value_or(0);
    server->start();
    return server;
  }

  static base::Result<Response> get(std::uint16_t port, ClientTls tls, std::string host = "127.0.0.1") {
    Endpoint endpoint;
    endpoint.kind = Endpoint::Kind::tls;
    endpoint.host = std::move(host);
    endpoint.port = port;
    ClientOptions options;
    options.timeout = 20s;
    options.tls = std::move(tls);
    return Client(endpoint, options).send(Request{});
  }
  static ClientTls trusting(const test::Pair& ca) {
    ClientTls tls;
    tls.ca_pem = ca.certificate_pem;
    return tls;
  }

  static inline test::Pair *s_ca, *s_other_ca, *s_server, *s_client, *s_foreign, *s_expired, *s_elsewhere;
};

TEST_F(Tls, ServerCertificateIsChecked) {
  std::uint16_t port = 0;
  const auto server = serve(*s_server, "", port);
  const auto good = get(port, trusting(*s_ca));
  ASSERT_TRUE(good) << good.error().what();
  EXPECT_EQ(good->body, "");

  const auto untrusted = get(port, trusting(*s_other_ca));
  ASSERT_FALSE(untrusted);
  EXPECT_EQ(untrusted.error().code, base::Code::tls);
  EXPECT_THAT(untrusted.error().what(), HasSubstr("certificate is not acceptable"));
  EXPECT_THAT(untrusted.error().what(), HasSubstr("https://127.0.0.1:" + std::to_string(port)));

  ClientTls insecure;
  insecure.insecure = true;
  EXPECT_TRUE(get(port, insecure));

  const auto nothing_given = get(port, ClientTls{});
  ASSERT_FALSE(nothing_given);
  EXPECT_THAT(nothing_given.error().what(), HasSubstr("no certificate authority"));
}

TEST_F(Tls, NameAndValidityAreChecked) {
  std::uint16_t port = 0;
  {
    const auto server = serve(*s_elsewhere, "", port);
    const auto wrong_ip = get(port, trusting(*s_ca));
    ASSERT_FALSE(wrong_ip) << "a common name is not an IP address";
    EXPECT_THAT(wrong_ip.error().what(), HasSubstr("mismatch"));
  }
  {
    const auto server = serve(*s_expired, "", port);
    const auto expired = get(port, trusting(*s_ca));
    ASSERT_FALSE(expired);
    EXPECT_THAT(expired.error().what(), HasSubstr("expired"));
  }
  {
    const auto server = serve(*s_server, "", port);
    const auto wrong_name = get(port, trusting(*s_ca), "localhost");
    ASSERT_FALSE(wrong_name);
    EXPECT_THAT(wrong_name.error().what(), HasSubstr("mismatch"));
  }
}

TEST_F(Tls, VerifyLeafDecidesAndItsTextSurfaces) {
  std::uint16_t port = 0;
  const auto server = serve(*s_server, "", port);
  for (const bool insecure : {false, true}) {
    ClientTls tls = trusting(*s_ca);
    tls.insecure = insecure;
    base::Bytes seen;
    tls.verify_leaf = [&](base::ByteView leaf) -> base::Result<> {
      seen = base::to_bytes(leaf);
      return {};
    };
    ASSERT_TRUE(get(port, tls));
    EXPECT_EQ(seen, test::der(*s_server));
    tls.verify_leaf = [](base::ByteView) -> base::Result<> {
      return base::fail(base::Code::evidence_untrusted, "quote says no: RTMR3 differs", "redeploy the KMS");
    };
    const auto refused = get(port, tls);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, base::Code::tls);
    EXPECT_THAT(refused.error().cause, HasSubstr("quote says no: RTMR3 differs"));
    EXPECT_EQ(refused.error().fix, "redeploy the KMS");
  }
}

TEST_F(Tls, VerifyLeafIsNotAskedAboutAnUntrustedChain) {
  std::uint16_t port = 0;
  const auto server = serve(*s_server, "", port);
  ClientTls tls = trusting(*s_other_ca);
  bool asked = false;
  tls.verify_leaf = [&](base::ByteView) -> base::Result<> {
    asked = true;
    return {};
  };
  EXPECT_FALSE(get(port, tls));
  EXPECT_FALSE(asked);
}

TEST_F(Tls, ClientCertificateIsOptionalButMustChain) {
  std::uint16_t port = 0;
  const auto server = serve(*s_server, s_ca->certificate_pem, port);
  const auto anonymous = get(port, trusting(*s_ca));
  ASSERT_TRUE(anonymous) << anonymous.error().what();
  EXPECT_EQ(anonymous->body, "");

  ClientTls known = trusting(*s_ca);
  known.certificate_chain_pem = s_client->certificate_pem;
  known.private_key_pem = s_client->key_pem;
  const auto mutual = get(port, known);
  ASSERT_TRUE(mutual) << mutual.error().what();
  EXPECT_EQ(mutual->body, base::to_hex(test::der(*s_client)));

  ClientTls foreign = trusting(*s_ca);
  foreign.certificate_chain_pem = s_foreign->certificate_pem;
  foreign.private_key_pem = s_foreign->key_pem;
  const auto refused = get(port, foreign);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::tls) << refused.error().what();
}

TEST_F(Tls, ServerThatAsksForNothingSeesNoCertificate) {
  std::uint16_t port = 0;
  const auto server = serve(*s_server, "", port);
  ClientTls tls = trusting(*s_ca);
  tls.certificate_chain_pem = s_client->certificate_pem;
  tls.private_key_pem = s_client->key_pem;
  const auto reply = get(port, tls);
  ASSERT_TRUE(reply) << reply.error().what();
  EXPECT_EQ(reply->body, "");
}

TEST_F(Tls, PlainAndSilentClientsDoNotHoldUpTheServer) {
  std::uint16_t port = 0;
  const auto server = serve(*s_server, "", port);
  auto plain = test::RawSocket::tcp(port);
  plain.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  auto silent = test::RawSocket::tcp(port);
  EXPECT_TRUE(get(port, trusting(*s_ca)));
  plain.read_all(20s);
  EXPECT_TRUE(plain.closed());
  silent.read_all(20s);
  EXPECT_TRUE(silent.closed());
}

TEST_F(Tls, ServerThatSpeaksNoTlsIsATlsError) {
  Server server([](const Request&) { return Response::text(200, ""); });
  const auto port = server.listen_tcp("127.0.0.1", 0).value_or(0);
  server.start();
  const auto result = get(port, trusting(*s_ca));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::tls);
}

TEST_F(Tls, BadMaterialIsRefusedWhenListening) {
  Server server([](const Request&) { return Response::text(200, ""); });
  const auto listen = [&](std::string chain, std::string key, std::string ca) {
    return server.listen_tcp("127.0.0.1", 0, ServerTls{std::move(chain), std::move(key), std::move(ca)});
  };
  EXPECT_EQ(listen("junk", s_server->key_pem, "").error().code, base::Code::tls);
  EXPECT_THAT(listen(s_server->certificate_pem, "junk", "").error().message, HasSubstr("private key"));
  EXPECT_THAT(listen(s_server->certificate_pem, s_client->key_pem, "").error().message,
              HasSubstr("does not belong"));
  EXPECT_EQ(listen(s_server->certificate_pem, s_server->key_pem, "junk").error().code, base::Code::tls);
  EXPECT_EQ(listen("", "", "").error().code, base::Code::tls);
}

TEST_F(Tls, LargeBodiesBothWays) {
  ServerOptions options;
  Server server([](const Request& request) { return Response::text(200, request.body); }, options);
  const auto port =
      server.listen_tcp("127.0.0.1", 0, ServerTls{s_server->certificate_pem, s_server->key_pem, ""})
          .value_or(0);
  server.start();
  Endpoint endpoint;
  endpoint.kind = Endpoint::Kind::tls;
  endpoint.host = "127.0.0.1";
  endpoint.port = port;
  ClientOptions client_options;
  client_options.tls = trusting(*s_ca);
  Request request;
  request.method = "POST";
  request.body.assign(5 << 20, 'z');
  const auto reply = Client(endpoint, client_options).send(request);
  ASSERT_TRUE(reply) << reply.error().what();
  EXPECT_TRUE(reply->body == request.body);
}

}  // namespace
}  // namespace dstack::net
