// What a server takes from its clients: malformed messages, sizes, times, numbers of connections.
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

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

struct BadCase {
  const char* name;
  std::string bytes;
  int status;
};

TEST(ServerLimits, RefusesWhatTwoPartiesCouldReadDifferently) {
  Running running;
  const std::string start = "POST / HTTP/1.1\r\nHost: h\r\n";
  const BadCase cases[] = {
      {"length and chunked", start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"chunked and length", start + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
      {"two lengths", start + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400},
      {"two equal lengths", start + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400},
      {"length list", start + "Content-Length: 5, 5\r\n\r\nhello", 400},
      {"negative length", start + "Content-Length: -1\r\n\r\n", 400},
      {"signed length", start + "Content-Length: +5\r\n\r\nhello", 400},
      {"hex length", start + "Content-Length: 0x5\r\n\r\nhello", 400},
      {"empty length", start + "Content-Length: \r\n\r\n", 400},
      {"overflowing length", start + "Content-Length: 18446744073709551617\r\n\r\n", 400},
      {"length beyond the limit", start + "Content-Length: 1001\r\n\r\n", 413},
      {"unknown encoding", start + "Transfer-Encoding: xchunked\r\n\r\n", 400},
      {"encoding list", start + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
      {"encoding twice", start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
       400},
      {"encoding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"folded line", start + "X-A: b\r\n c: d\r\nContent-Length: 0\r\n\r\n", 400},
      {"folded length", start + "Content-Length:\r\n 5\r\n\r\nhello", 400},
      {"space before the colon", start + "Content-Length : 5\r\n\r\nhello", 400},
      {"two hosts", start + "Host: i\r\nContent-Length: 0\r\n\r\n", 400},
      {"no host", "GET / HTTP/1.1\r\n\r\n", 400},
      {"a host in the target only", "GET http://h/ HTTP/1.1\r\nX-Host: h\r\n\r\n", 400},
      {"two words as host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
      {"a path in the host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
      {"bare line feeds", "GET / HTTP/1.1\nHost: h\n\n", 400},
      {"bad chunk size", start + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"chunk beyond the limit", start + "Transfer-Encoding: chunked\r\n\r\nffff\r\n", 413},
      {"chunk size overflow", start + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400},
      {"endless chunk extension", start + "Transfer-Encoding: chunked\r\n\r\n1;" + std::string(5000, 'a'),
       400},
      {"length in the trailer", start + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
       400},
      {"NUL in the path", "GET /a%00b HTTP/1.1\r\nHost: h\r\n\r\n", 400},
      {"authority as target", "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 400},
      {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"not HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
      {"long header", start + "X: " + std::string(3000, 'x') + "\r\n\r\n", 431},
      {"many small fields",
       start +
           [] {
             std::string out;
             for (int i = 0; i < 150; ++i) {
               out += "A: b\r\n";
             }
             return out;
           }() +
           "\r\n",
       431},
  };
  for (const auto& bad : cases) {
    const auto reply = running.exchange(bad.bytes);
    EXPECT_THAT(reply, StartsWith("HTTP/1.1 " + std::to_string(bad.status))) << bad.name;
    EXPECT_THAT(reply, HasSubstr("Connection: close")) << bad.name;
    EXPECT_EQ(RawSocket::count(reply, "\r\nDate: "), 1) << bad.name << ": what follows must not be a request";
  }
}

TEST(ServerLimits, AHostIsNeededInHttp11AndMayBeEmpty) {
  Running running;
  for (const char* good : {"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost:\r\n\r\n",
                           "GET / HTTP/1.1\r\nhOST: a_b.example:80\r\n\r\n",
                           "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]:80\r\n\r\n"}) {
    EXPECT_THAT(running.exchange(good), StartsWith("HTTP/1.1 200")) << good;
  }
}

TEST(ServerLimits, NothingAfterARefusedRequestIsRead) {
  std::atomic<int> handled = 0;
  Running running([&](const Request&) {
    ++handled;
    return Response::text(200, "ok");
  });
  running.exchange(
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
      "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(handled, 0);
}

TEST(ServerLimits, HeaderDripIsLimitedInBytes) {
  auto options = quick();
  options.header_timeout = 5s;
  Running running(echo, options);
  auto socket = running.raw();
  socket.send("GET / HTTP/1.1\r\nHost: h\r\n");
  std::string field = "X-Y: " + std::string(40, 'z') + "\r\n";
  for (int i = 0; i < 60 && socket.send(field); ++i) {
  }
  EXPECT_THAT(socket.read_all(20s), StartsWith("HTTP/1.1 431"));
}

TEST(ServerLimits, SlowClientsTimeOut) {
  auto options = quick();
  options.header_timeout = 200ms;
  options.body_timeout = 200ms;
  Running running(echo, options);
  auto no_bytes = running.raw();
  auto half_header = running.raw();
  auto half_body = running.raw();
  half_header.send("GET / HTTP/1.1\r\nHos");
  half_body.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_THAT(half_header.read_all(20s), StartsWith("HTTP/1.1 408"));
  EXPECT_THAT(half_body.read_all(20s), StartsWith("HTTP/1.1 408"));
  EXPECT_EQ(no_bytes.read_all(20s), "");
  EXPECT_TRUE(no_bytes.closed());
}

TEST(ServerLimits, SlowClientsHoldUpNobody) {
  auto options = quick();
  options.workers = 0;
  options.header_timeout = 60s;
  options.body_timeout = 60s;
  Running running(echo, options);
  std::vector<RawSocket> slow;
  for (int i = 0; i < 50; ++i) {
    slow.push_back(running.raw());
    slow.back().send(i % 2 == 0 ? "GET / HTTP/1.1\r\nHos"
                                : "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
  }
  EXPECT_THAT(running.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST(ServerLimits, IdleConnectionsAreClosed) {
  auto options = quick();
  options.idle_timeout = 100ms;
  Running running(echo, options);
  auto socket = running.raw();
  socket.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(socket.read_all(20s), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(socket.closed());
}

TEST(ServerLimits, AskedForContinueBeforeTheBody) {
  Running running;
  auto socket = running.raw();
  socket.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(socket.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  socket.send("ok");
  EXPECT_THAT(socket.read_until("ok"), Not(HasSubstr("100")));
  auto large = running.raw();
  large.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_THAT(large.read_all(), StartsWith("HTTP/1.1 413"));
}

// Strangers could fill the memory with bodies that were looked at only when they were complete.
TEST(ServerLimits, WhoIsNotAdmittedGetsTheAnswerBeforeSendingABody) {
  auto options = quick();
  options.max_body = 1 << 30;
  options.admit = [](const Request& head) -> std::optional<Response> {
    if (head.headers.get("Authorization")) {
      return std::nullopt;
    }
    return Response::text(401, "who are you to ask for " + head.path + "?\n");
  };
  std::atomic<int> handled = 0;
  Running running(
      [&](const Request& request) {
        ++handled;
        return echo(request);
      },
      options);
  auto stranger = running.raw();
  stranger.send("POST /big HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n{");
  const auto reply = stranger.read_all();
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(reply, HasSubstr("/big"));
  EXPECT_THAT(reply, HasSubstr("Connection: close"));
  auto waiting = running.raw();
  waiting.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_THAT(waiting.read_all(), StartsWith("HTTP/1.1 401"));
  EXPECT_EQ(handled, 0);
  auto known = running.raw();
  known.send("POST / HTTP/1.1\r\nHost: h\r\nAuthorization: x\r\nContent-Length: 2\r\n\r\n");
  known.send("ok");
  EXPECT_THAT(known.read_until("ok"), StartsWith("HTTP/1.1 200"));
}

TEST(ServerLimits, MoreConnectionsThanAllowedGet503) {
  auto options = quick();
  options.max_connections = 2;
  Running running(echo, options);
  auto first = running.raw();
  auto second = running.raw();
  first.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  second.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(first.read_until("GET /"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(second.read_until("GET /"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(running.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), StartsWith("HTTP/1.1 503"));
  first.close();
  std::string reply;
  for (int i = 0; i < 200 && !reply.starts_with("HTTP/1.1 200"); ++i) {
    std::this_thread::sleep_for(10ms);
    reply = running.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  }
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200")) << "a place has become free";
}

TEST(ServerLimits, TheOldestConnectionGivesWayWhenItIsOldEnough) {
  for (const unsigned workers : {0u, 2u}) {
    auto options = quick();
    options.workers = workers;
    options.max_connections = 2;
    options.give_way_after = 60s;
    const std::string request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    {
      Running running(echo, options);
      std::vector<RawSocket> held;
      for (int i = 0; i < 2; ++i) {
        held.push_back(running.raw());
        held.back().send(request);
        EXPECT_THAT(held.back().read_until("?"), StartsWith("HTTP/1.1 200"));
      }
      EXPECT_THAT(running.exchange(request), StartsWith("HTTP/1.1 503")) << "nobody is old enough";
    }
    options.give_way_after = 1ms;
    Running running(echo, options);
    auto half = running.raw();
    half.send("GET / HTTP/1.1\r\nHos");
    auto second = running.raw();
    second.send(request);
    EXPECT_THAT(second.read_until("?"), StartsWith("HTTP/1.1 200"));
    std::this_thread::sleep_for(20ms);
    auto newcomer = running.raw();
    newcomer.send(request);
    EXPECT_THAT(newcomer.read_until("?"), StartsWith("HTTP/1.1 200"));
    EXPECT_EQ(half.read_all(5s), "");
    EXPECT_TRUE(half.closed()) << "the oldest, also in the middle of a request";
    second.send(request);
    EXPECT_THAT(second.read_until("?"), StartsWith("HTTP/1.1 200")) << "nobody else";
  }
}

}  // namespace
}  // namespace dstack::net
