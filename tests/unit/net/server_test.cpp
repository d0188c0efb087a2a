#include "net/server.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <atomic>
#include <future>
#include <thread>

#include "base/fs.h"
#include "net/client.h"
#include "unit/net/running_server.h"

namespace dstack::net {
namespace {

using namespace std::chrono_literals;
using test::echo;
using test::quick;
using test::RawSocket;
using test::Running;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(Server, AnswersAndKeepsTheConnection) {
  Running running;
  auto socket = running.raw();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(socket.send("GET /a%20b?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"));
    const auto reply = socket.read_until("GET /a b?x=1 ");
    EXPECT_THAT(reply, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(reply, HasSubstr("\r\nContent-Length: 13\r\n"));
    EXPECT_THAT(reply, HasSubstr("\r\nConnection: keep-alive\r\n"));
    EXPECT_THAT(reply, HasSubstr("\r\nDate: "));
  }
}

TEST(Server, AnswersPipelinedRequestsInOrder) {
  for (const unsigned workers : {0u, 2u}) {
    auto options = quick();
    options.workers = workers;
    Running running(echo, options);
    std::string bytes;
    for (int i = 0; i < 100; ++i) {
      const auto body = std::to_string(i);
      bytes +=
          "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    }
    const auto reply = running.exchange(bytes);
    std::size_t at = 0;
    for (int i = 0; i < 100; ++i) {
      at = reply.find("POST /p? " + std::to_string(i), at);
      ASSERT_NE(at, std::string::npos) << i;
    }
    EXPECT_EQ(RawSocket::count(reply, "HTTP/1.1 200 OK"), 100);
  }
}

TEST(Server, AnswersAfterTheClientHasHalfClosed) {
  Running running([](const Request& request) {
    std::this_thread::sleep_for(50ms);
    return echo(request);
  });
  const auto reply = running.exchange("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(reply, HasSubstr("POST /x? hi"));
}

TEST(Server, ClosesAfterTheClientsFin) {
  // What upstream's JavaScript client relies on: it half-closes after the reply and waits for the server's
  // close.
  Running running;
  auto socket = running.raw();
  socket.send(
      "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_THAT(socket.read_until("{}"), HasSubstr("Content-Length: "));
  socket.half_close();
  EXPECT_EQ(socket.read_all(20s), "");
  EXPECT_TRUE(socket.closed());
}

TEST(Server, RequestArrivingByteByByte) {
  Running running;
  auto socket = running.raw();
  for (const char c : std::string(
           "POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")) {
    ASSERT_TRUE(socket.send({&c, 1}));
  }
  EXPECT_THAT(socket.read_until("abc"), HasSubstr("POST /b? abc"));
}

TEST(Server, HeadHasNoBodyAndHttp10Closes) {
  Running running;
  EXPECT_THAT(running.exchange("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"), testing::EndsWith("\r\n\r\n"));
  auto socket = running.raw();
  socket.send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_THAT(socket.read_all(), HasSubstr("Connection: close"));
  EXPECT_TRUE(socket.closed());
}

TEST(Server, LargeBodiesBothWays) {
  auto options = quick();
  options.max_body = 20 << 20;
  options.body_timeout = 5s;
  Running running([](const Request& request) { return Response::text(200, request.body); }, options);
  const std::string big(10 << 20, 'q');
  auto client = Client(
      {.kind = Endpoint::Kind::tcp, .path = {}, .host = "127.0.0.1", .port = running.port, .base_path = {}});
  Request request;
  request.method = "POST";
  request.body = big;
  const auto reply = client.send(request);
  ASSERT_TRUE(reply) << reply.error().what();
  EXPECT_TRUE(reply->body == big);
}

TEST(Server, HandlerExceptionIs500AndTheServerLives) {
  Running running([](const Request& request) -> Response {
    if (request.path == "/throw") {
      throw std::runtime_error("secret detail");
    }
    return echo(request);
  });
  const auto reply = running.exchange("GET /throw HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 500"));
  EXPECT_THAT(reply, Not(HasSubstr("secret")));
  EXPECT_THAT(running.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST(Server, ResponseHeadersCannotInjectLines) {
  Running running([](const Request&) {
    Response response = Response::text(200, "x");
    response.headers.add("X-Evil", "a\r\nSet-Cookie: b");
    response.headers.add("Content-Length", "999");
    return response;
  });
  const auto reply = running.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(reply, HasSubstr("X-Evil: a  Set-Cookie: b\r\n"));
  EXPECT_THAT(reply, Not(HasSubstr("999")));
}

Response count_to(int last) {
  Response response = Response::text(200, "");
  response.stream = [i = 0, last]() mutable -> std::optional<std::string> {
    if (i == last) {
      return std::nullopt;
    }
    return std::to_string(++i) + "\n";
  };
  return response;
}

TEST(Server, StreamsInChunksAndKeepsTheConnection) {
  Running running(
      [](const Request& request) { return request.path == "/stream" ? count_to(3) : echo(request); });
  auto socket = running.raw();
  socket.send("GET /stream HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n");
  const auto reply = socket.read_until("GET /next");
  EXPECT_THAT(reply, HasSubstr("Transfer-Encoding: chunked"));
  EXPECT_THAT(reply, HasSubstr("\r\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n2\r\n3\n\r\n0\r\n\r\nHTTP/1.1 200"));
}

TEST(Server, StreamsToHttp10UntilClose) {
  Running running([](const Request&) { return count_to(3); });
  EXPECT_THAT(running.exchange("GET / HTTP/1.0\r\n\r\n"), testing::EndsWith("\r\n\r\n1\n2\n3\n"));
}

TEST(Server, ManySilentStreamsDoNotUseUpTheWorkers) {
  std::atomic<int> alive = 0;
  Running running([&](const Request& request) {
    if (request.path != "/follow") {
      return echo(request);
    }
    Response response = Response::text(200, "");
    response.stream = [guard = std::shared_ptr<void>((++alive, nullptr), [&](void*) { --alive; })] {
      std::this_thread::sleep_for(20ms);
      return std::optional<std::string>("");
    };
    return response;
  });
  std::vector<RawSocket> sockets;
  for (int i = 0; i < 64; ++i) {
    sockets.push_back(running.raw());
    sockets.back().send("GET /follow HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_THAT(sockets.back().read_until("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  }
  EXPECT_THAT(running.exchange("GET /follow HTTP/1.1\r\nHost: h\r\n\r\n"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(running.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(alive, 64);
  sockets.clear();
  for (int i = 0; i < 2000 && alive > 0; ++i) {
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_EQ(alive, 0) << "a client that has gone must end its stream";
}

TEST(Server, AThrowingStreamIsCutShort) {
  Running running([](const Request&) {
    Response response = Response::text(200, "");
    response.stream = [i = 0]() mutable -> std::optional<std::string> {
      if (i++ == 0) {
        return "one";
      }
      throw std::runtime_error("no more");
    };
    return response;
  });
  const auto reply = running.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(reply, HasSubstr("3\r\none\r\n"));
  EXPECT_THAT(reply, Not(HasSubstr("0\r\n\r\n")));
}

TEST(Server, StopAnswersWhatIsInFlight) {
  std::promise<void> entered;
  Running running([&](const Request& request) {
    entered.set_value();
    std::this_thread::sleep_for(150ms);
    return echo(request);
  });
  auto busy = running.raw();
  auto idle = running.raw();
  busy.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
  entered.get_future().wait();
  running.server.stop();
  const auto reply = busy.read_all();
  EXPECT_THAT(reply, HasSubstr("GET /slow"));
  EXPECT_THAT(reply, HasSubstr("Connection: close"));
  EXPECT_EQ(idle.read_all(), "");
  EXPECT_TRUE(idle.closed());
  EXPECT_FALSE(running.raw().connected());
}

TEST(Server, StopBeforeRunReturnsAtOnce) {
  Server server(echo);
  ASSERT_TRUE(server.listen_tcp("127.0.0.1", 0));
  server.stop();
  EXPECT_TRUE(server.run());
}

TEST(Server, RunWithoutListenerIsAnError) {
  Server server(echo);
  EXPECT_FALSE(server.run());
}

TEST(Server, PortInUseNamesTheAddress) {
  Running running;
  Server other(echo);
  const auto result = other.listen_tcp("127.0.0.1", running.port);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::address_in_use);
  EXPECT_THAT(result.error().message, HasSubstr("127.0.0.1:" + std::to_string(running.port)));
  EXPECT_THAT(result.error().fix, HasSubstr("another port"));
  EXPECT_EQ(other.listen_tcp("192.0.2.1", 0).error().code, base::Code::net);
  EXPECT_EQ(other.listen_tcp("not-an-ip", 0).error().code, base::Code::invalid_argument);
}

class UnixServer : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/dstack-net-XXXXXX";
    m_dir = ::mkdtemp(name);
    m_path = m_dir + "/s.sock";
  }
  void TearDown() override { (void)base::remove_tree(m_dir); }
  std::string m_dir;
  std::string m_path;
};

TEST_F(UnixServer, ServesWithTheModeAskedForAndCleansUp) {
  {
    Server server(echo, quick());
    ASSERT_TRUE(server.listen_unix(m_path, 0660));
    struct stat info = {};
    ASSERT_EQ(::stat(m_path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777u, 0660u);
    server.start();
    const Client client(*Endpoint::parse("unix:" + m_path));
    const auto reply =
        client.send({.method = "GET", .path = "/u", .query = {}, .headers = {}, .body = {}, .peer = {}});
    ASSERT_TRUE(reply) << reply.error().what();
    EXPECT_EQ(reply->body, "GET /u? ");
  }
  EXPECT_NE(::access(m_path.c_str(), F_OK), 0);
}

TEST_F(UnixServer, ReplacesAStaleSocketButNothingElse) {
  {
    // Bound and gone without cleaning up.
    auto fd = base::Fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, m_path.c_str(), m_path.size() + 1);
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  Server server(echo);
  ASSERT_TRUE(server.listen_unix(m_path));
  Server second(echo);
  EXPECT_EQ(second.listen_unix(m_path).error().code, base::Code::address_in_use);
  const auto directory = second.listen_unix(m_dir);
  ASSERT_FALSE(directory);
  EXPECT_THAT(directory.error().message, HasSubstr(m_dir));
  EXPECT_FALSE(second.listen_unix(m_dir + "/" + std::string(200, 'x')));
  EXPECT_FALSE(second.listen_unix(m_dir + "/none/s.sock"));
}

TEST(Server, ServesManyClientsAtOnce) {
  Running running;
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      auto socket = running.raw();
      for (int i = 0; i < 100; ++i) {
        socket.send("GET /m HTTP/1.1\r\nHost: h\r\n\r\n");
        good += socket.read_until("GET /m?").find("200 OK") != std::string::npos ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(good, 800);
}

}  // namespace
}  // namespace dstack::net
