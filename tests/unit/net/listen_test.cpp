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

TEST(Listen, DescriptorsAreNotInheritedByChildren) {
  const auto socket = listen_on_tcp("127.0.0.1", 0);
  ASSERT_TRUE(socket);
  EXPECT_NE(::fcntl(socket->fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(socket->fd.get(), F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace dstack::net
