// Clients that ask a webhook without a pause while its allow-list is replaced.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "unit/net/raw_socket.h"

namespace dstack::test {

// Sends `request` to `port` from 16 connections while `replace` is called `times` times, with 0, 1, and so
// on. Its lists are to allow with the gateway "A" in one version and deny the compose hash with "B" in the
// other; fails when an answer is neither's, or when a version was never seen.
inline void expect_either_version(std::uint16_t port, const std::string& request, int times,
                                  const std::function<void(int)>& replace) {
  std::atomic<bool> done = false;
  std::atomic<int> seen_a = 0;
  std::atomic<int> seen_b = 0;
  std::atomic<int> wrong = 0;
  std::vector<std::jthread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&] {
      auto socket = net::test::RawSocket::tcp(port);
      const auto is = [](const std::string& reply, const char* answer) {
        return reply.find(answer) != std::string::npos;
      };
      while (!done) {
        socket.send(request);
        const auto reply = socket.read_until("\"}");
        if (is(reply, R"({"isAllowed":true,"gatewayAppId":"A","reason":"ok"})")) {
          ++seen_a;
        } else if (is(reply,
                      R"({"isAllowed":false,"gatewayAppId":"B","reason":"compose hash not allowed"})")) {
          ++seen_b;
        } else {
          ++wrong;
        }
      }
    });
  }
  for (int i = 0; i < times; ++i) {
    replace(i);
  }
  done = true;
  clients.clear();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(seen_a, 0);
  EXPECT_GT(seen_b, 0);
}

}  // namespace dstack::test
