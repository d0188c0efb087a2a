#include "net/connection.h"

#include <gmock/gmock.h>

#include <atomic>

#include "base/format.h"
#include "net/client.h"
#include "net/server.h"
#include "unit/net/raw_socket.h"
#include "unit/net/test_pki.h"

namespace dstack::net {
namespace {

using test::RawSocket;
using testing::HasSubstr;

// Sends until nothing has been taken for half a second; the number of whole copies of `request` taken.
std::size_t send_while_taken(const RawSocket& socket, const std::string& request, std::size_t at_most) {
  std::string block;
  while (block.size() < 64 * 1024) {
    block += request;
  }
  std::size_t taken = 0;
  pollfd entry{socket.fd(), POLLOUT, 0};
  while (taken < at_most && ::poll(&entry, 1, 500) > 0) {
    const auto rest = std::string_view(block).substr(taken % block.size());
    const ssize_t count = ::send(socket.fd(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count <= 0) {
      break;
    }
    taken += static_cast<std::size_t>(count);
  }
  return taken / request.size();
}

// Bytes received until there are `wanted`, or none come for some seconds.
std::size_t receive(const RawSocket& socket, std::size_t wanted) {
  std::size_t total = 0;
  pollfd entry{socket.fd(), POLLIN, 0};
  std::vector<char> buffer(256 * 1024);
  while (total < wanted && ::poll(&entry, 1, 10'000) > 0) {
    const ssize_t count = ::recv(socket.fd(), buffer.data(), buffer.size(), 0);
    if (count <= 0) {
      break;
    }
    total += static_cast<std::size_t>(count);
  }
  return total;
}

// It took gigabytes of requests into memory.
TEST(Connection, AClientThatNeverReadsIsNotReadFromForEver) {
  constexpr std::size_t k_answer = 4000;
  for (const unsigned workers : {0U, 2U}) {
    ServerOptions options;
    options.workers = workers;
    std::atomic<int> handled = 0;
    Server server(
        [&](const Request&) {
          ++handled;
          return Response::text(200, std::string(k_answer, 'x'));
        },
        options);
    const auto port = server.listen_tcp("127.0.0.1", 0).value();
    server.start();
    auto socket = RawSocket::tcp(port);
    const std::string request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    constexpr std::size_t k_much = 64 << 20;
    const std::size_t sent = send_while_taken(socket, request, k_much);
    // The kernel's buffers may hold some megabytes.
    EXPECT_LT(sent * request.size(), k_much / 2) << workers;
    // And it goes on where it stopped, far beyond what was ahead.
    ASSERT_GT(sent, 10'000U);
    EXPECT_GE(receive(socket, 10'000 * k_answer), 10'000 * k_answer) << workers << " " << handled;
  }
}

TEST(Connection, OverTheLimitTlsGetsA503Too) {
  const auto ca = test::make_certificate("ca", nullptr, "", true);
  const auto leaf = test::make_certificate("leaf", &ca, "IP:127.0.0.1");
  ServerOptions options;
  options.max_connections = 1;
  Server server([](const Request&) { return Response::text(200, "in"); }, options);
  const auto port =
      server.listen_tcp("127.0.0.1", 0, ServerTls{leaf.certificate_pem, leaf.key_pem, ""}).value();
  server.start();
  ClientOptions client_options;
  client_options.tls.ca_pem = ca.certificate_pem;
  const Client client(Endpoint::parse(base::format("https://127.0.0.1:{}", port)).value(), client_options);
  {
    const auto first = RawSocket::tcp(port);
    for (int i = 0; i < 3; ++i) {
      const auto answer = client.send({});
      ASSERT_TRUE(answer) << answer.error().what();
      EXPECT_EQ(answer->status, 503);
      EXPECT_THAT(answer->body, HasSubstr("too many connections"));
    }
  }
  // The place is free again soon after the first has gone.
  int status = 503;
  for (int i = 0; i < 100 && status == 503; ++i) {
    status = client.send({}).value_or(Response{.status = 0}).status;
  }
  EXPECT_EQ(status, 200);
}

}  // namespace
}  // namespace dstack::net
