// A server on a port of its own, with limits that tests reach quickly.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>

#include "net/server.h"
#include "unit/net/raw_socket.h"

namespace dstack::net::test {

inline Response echo(const Request& request) {
  std::string body = request.method + " " + request.path + "?" + request.query + " " + request.body;
  return Response::text(200, body);
}

inline ServerOptions quick() {
  ServerOptions options;
  options.workers = 2;
  options.max_body = 1000;
  options.max_header = 2000;
  return options;
}

struct Running {
  explicit Running(Handler handler = echo, ServerOptions options = quick())
      : server(std::move(handler), options) {
    const auto bound = server.listen_tcp("127.0.0.1", 0);
    EXPECT_TRUE(bound);
    port = bound.value_or(0);
    server.start();
  }
  RawSocket raw() const { return RawSocket::tcp(port); }
  std::string exchange(std::string_view bytes) const {
    auto socket = raw();
    socket.send(bytes);
    socket.half_close();
    return socket.read_all();
  }
  Server server;
  std::uint16_t port = 0;
};

}  // namespace dstack::net::test
