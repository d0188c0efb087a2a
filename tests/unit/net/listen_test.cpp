#include "net/listen.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>

#include "net/client.h"
#include "net/server.h"

namespace dstack::net {
namespace {

TEST(Listen, AnInheritedSocketIsServed) {
  auto socket = listen_on_tcp("127.0.0.1", 0);
  ASSERT_TRUE(socket);
  Server server([](const Request&) { return Response::text(200, "inherited"); });
  ASSERT_TRUE(server.listen_fd(socket->fd.release()));
  server.start();
  Endpoint endpoint;
  endpoint.host = "127.0.0.1";
  endpoint.port = socket->port;
  const auto reply = Client(endpoint).send(Request{});
  ASSERT_TRUE(reply) << reply.error().what();
  EXPECT_EQ(reply->body, "inherited");
}

TEST(Listen, OnlyListeningStreamSocketsAreAdopted) {
  EXPECT_FALSE(adopt_listener(base::Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC))));
  EXPECT_FALSE(adopt_listener(base::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))));
  EXPECT_FALSE(adopt_listener(base::Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0))));
  EXPECT_FALSE(adopt_listener(base::Fd()));
}

TEST(Listen, ToldApartIsWhatOnlyThisHostReaches) {
  for (const char* ip : {"127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"}) {
    EXPECT_TRUE(parse_ip(ip, 80)->is_loopback()) << ip;
  }
  for (const char* ip : {"0.0.0.0", "::", "128.0.0.1", "10.0.2.2", "::ffff:10.0.0.1", "fe80::1", "::2"}) {
    EXPECT_FALSE(parse_ip(ip, 80)->is_loopback()) << ip;
  }
  EXPECT_FALSE(SocketAddress{}.is_loopback());
  const auto socket = listen_on_tcp("0.0.0.0", 0);
  ASSERT_TRUE(socket);
  const auto bound = bound_address(socket->fd.get());
  ASSERT_TRUE(bound);
  EXPECT_EQ(bound->to_string(), "0.0.0.0:" + std::to_string(socket->port));
  EXPECT_FALSE(bound_address(-1));
}

TEST(Listen, DescriptorsAreNotInheritedByChildren) {
  const auto socket = listen_on_tcp("127.0.0.1", 0);
  ASSERT_TRUE(socket);
  EXPECT_NE(::fcntl(socket->fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(socket->fd.get(), F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace dstack::net
