#include "net/client.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "net/listen.h"
#include "net/server.h"

namespace dstack::net {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

// Accepts one connection, reads a little, writes `reply`, closes.
class ScriptedServer {
 public:
  explicit ScriptedServer(std::string reply, std::chrono::milliseconds delay = 0ms, bool read_first = true) {
    auto socket = listen_on_tcp("127.0.0.1", 0);
    m_listener = std::move(socket->fd);
    m_port = socket->port;
    ::pollfd entry{m_listener.get(), POLLIN, 0};
    m_thread = std::jthread([this, entry, reply = std::move(reply), delay, read_first]() mutable {
      if (::poll(&entry, 1, 5000) <= 0) {
        return;
      }
      const base::Fd fd(::accept4(m_listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      char buffer[4096];
      if (read_first) {
        const auto count = ::recv(fd.get(), buffer, sizeof buffer, 0);
        m_request.assign(buffer, count > 0 ? static_cast<std::size_t>(count) : 0);
      }
      std::this_thread::sleep_for(delay);
      (void)!::send(fd.get(), reply.data(), reply.size(), MSG_NOSIGNAL);
    });
  }
  Endpoint endpoint(std::string base_path = "") const {
    Endpoint out;
    out.host = "127.0.0.1";
    out.port = m_port;
    out.base_path = std::move(base_path);
    return out;
  }
  std::string request() {
    m_thread.join();
    return m_request;
  }

 private:
  base::Fd m_listener;
  std::uint16_t m_port = 0;
  std::string m_request;
  std::jthread m_thread;
};

base::Result<Response> fetch(const std::string& reply, ClientOptions options = {}) {
  ScriptedServer server(reply);
  return Client(server.endpoint(), options).send(Request{});
}

TEST(Client, WritesAnExactRequest) {
  ScriptedServer server("HTTP/1.1 204 No Content\r\n\r\n");
  Request request;
  request.method = "POST";
  request.path = "/a b/\xc3\xbc?";
  request.query = "json";
  request.headers.add("X-A", "b");
  request.body = "{}";
  const auto reply = Client(server.endpoint("/base")).send(request);
  ASSERT_TRUE(reply) << reply.error().what();
  EXPECT_EQ(reply->status, 204);
  const auto port = server.endpoint().port;
  EXPECT_EQ(server.request(),
            "POST /base/a%20b/%C3%BC%3F?json HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port) +
                "\r\nX-A: b\r\nUser-Agent: dstack/" DSTACK_VERSION
                "\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
}

TEST(Client, RefusesToWriteHeadersThatEndTheLine) {
  Endpoint endpoint;
  endpoint.host = "127.0.0.1";
  endpoint.port = 9;
  Request request;
  request.headers.add("Authorization", "Bearer s3cret\r\nX: y");
  const auto result = Client(endpoint).send(request);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::invalid_argument);
  EXPECT_THAT(result.error().what(), testing::Not(HasSubstr("s3cret")));
  request = Request{};
  request.query = "a b";
  EXPECT_EQ(Client(endpoint).send(request).error().code, base::Code::invalid_argument);
  request = Request{};
  request.method = "GET /x HTTP/1.1\r\n";
  EXPECT_EQ(Client(endpoint).send(request).error().code, base::Code::invalid_argument);
}

TEST(Client, ReadsEveryFraming) {
  EXPECT_EQ(fetch("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcX")->body, "abc");
  EXPECT_EQ(
      fetch("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")->body,
      "abc");
  EXPECT_EQ(fetch("HTTP/1.1 200 OK\r\n\r\nuntil the end")->body, "until the end");
  EXPECT_EQ(fetch("HTTP/1.1 200 OK\r\n\r\n")->body, "");
  EXPECT_EQ(
      fetch("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx")->status,
      404);
  const auto headers = fetch("HTTP/1.1 200 OK\r\nX-One: 1\r\nx-one: 2\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(headers->headers.get("X-ONE"), "1");
}

TEST(Client, BrokenAnswersAreErrors) {
  const auto nothing = fetch("");
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, base::Code::http);
  EXPECT_THAT(nothing.error().what(), HasSubstr("without an answer"));
  for (const std::string reply :
       {"HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"}) {
    const auto result = fetch(reply);
    ASSERT_FALSE(result) << reply;
    EXPECT_EQ(result.error().code, base::Code::http) << reply;
    EXPECT_THAT(result.error().what(), HasSubstr("http://127.0.0.1:")) << reply;
  }
}

TEST(Client, LimitsTheBody) {
  ClientOptions options;
  options.max_body = 10;
  for (const std::string head : {"Content-Length: 11\r\n", "", "Transfer-Encoding: chunked\r\n"}) {
    const std::string body = head.starts_with("T") ? "b\r\n01234567890\r\n0\r\n\r\n" : "01234567890";
    const auto result = fetch("HTTP/1.1 200 OK\r\n" + head + "\r\n" + body, options);
    ASSERT_FALSE(result) << head;
    EXPECT_EQ(result.error().code, base::Code::too_large) << head;
  }
}

TEST(Client, WholeTimeout) {
  ScriptedServer server("late", 400ms);
  ClientOptions options;
  options.timeout = 100ms;
  const auto result = Client(server.endpoint(), options).send(Request{});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::timeout);
}

TEST(Client, NothingAnswers) {
  auto socket = listen_on_tcp("127.0.0.1", 0);
  const auto port = socket->port;
  socket->fd.reset();
  Endpoint endpoint;
  endpoint.host = "127.0.0.1";
  endpoint.port = port;
  const auto result = Client(endpoint).send(Request{});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::connect_failed);
  EXPECT_EQ(result.error().message, "nothing answers at http://127.0.0.1:" + std::to_string(port));
  EXPECT_EQ(result.error().cause, "Connection refused");
  EXPECT_FALSE(result.error().fix.empty());
  endpoint.host = "localhost";
  EXPECT_EQ(Client(endpoint).send(Request{}).error().code, base::Code::connect_failed);
}

TEST(Client, AnEarlyRefusalCountsMoreThanTheBrokenPipe) {
  ServerOptions options;
  options.max_body = 100;
  Server server([](const Request&) { return Response::text(200, ""); }, options);
  Endpoint endpoint;
  endpoint.host = "127.0.0.1";
  endpoint.port = server.listen_tcp("127.0.0.1", 0).value_or(0);
  server.start();
  Request request;
  request.method = "POST";
  request.body.assign(4 << 20, 'x');
  for (int i = 0; i < 5; ++i) {
    const auto reply = Client(endpoint).send(request);
    ASSERT_TRUE(reply) << reply.error().what();
    EXPECT_EQ(reply->status, 413);
  }
}

TEST(Client, StreamsChunksAsTheyCome) {
  Server server([](const Request& request) {
    if (request.path == "/denied") {
      return Response::text(404, "VM not found");
    }
    Response response = Response::text(200, "");
    response.stream = [i = 0]() mutable -> std::optional<std::string> {
      std::this_thread::sleep_for(10ms);
      return ++i > 5 ? std::nullopt : std::optional("chunk" + std::to_string(i) + "\n");
    };
    return response;
  });
  Endpoint endpoint;
  endpoint.host = "127.0.0.1";
  endpoint.port = server.listen_tcp("127.0.0.1", 0).value_or(0);
  server.start();
  ClientOptions options;
  options.timeout = 20s;
  options.max_body = 10;  // not for a stream
  const Client client(endpoint, options);
  std::string all;
  int calls = 0;
  const auto collect = [&](std::string_view chunk) {
    all += chunk;
    return ++calls < 100;
  };
  const auto reply = client.send_streaming(Request{}, collect);
  ASSERT_TRUE(reply) << reply.error().what();
  EXPECT_EQ(all, "chunk1\nchunk2\nchunk3\nchunk4\nchunk5\n");
  EXPECT_GT(calls, 1) << "the chunks must not be held back";

  int seen = 0;
  EXPECT_TRUE(client.send_streaming(Request{}, [&](std::string_view) { return ++seen < 2; }));
  EXPECT_EQ(seen, 2);

  Request denied;
  denied.path = "/denied";
  const auto refused = Client(endpoint).send_streaming(denied, [](std::string_view) -> bool {
    ADD_FAILURE() << "an error is not a chunk";
    return true;
  });
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 404);
  EXPECT_EQ(refused->body, "VM not found");
}

TEST(Client, StreamSilenceTimesOut) {
  Server server([](const Request&) {
    Response response = Response::text(200, "");
    response.stream = [first = true]() mutable -> std::optional<std::string> {
      if (std::exchange(first, false)) {
        return "x";
      }
      std::this_thread::sleep_for(10ms);
      return "";
    };
    return response;
  });
  Endpoint endpoint;
  endpoint.host = "127.0.0.1";
  endpoint.port = server.listen_tcp("127.0.0.1", 0).value_or(0);
  server.start();
  ClientOptions options;
  options.timeout = 150ms;
  const auto result =
      Client(endpoint, options).send_streaming(Request{}, [](std::string_view) { return true; });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::timeout);
}

}  // namespace
}  // namespace dstack::net
