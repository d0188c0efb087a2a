#include "client/port_probe.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>

#include "base/fd.h"
#include "unit/client/listener.h"

using namespace dstack;
using namespace std::chrono_literals;
using test::Listener;

TEST(PortProbe, NothingListens) {
  std::uint16_t port = 0;
  {
    Listener listener;
    port = listener.port;
  }
  EXPECT_FALSE(client::port_answers("127.0.0.1", port, 50ms));
}

TEST(PortProbe, AnOpenConnectionAnswers) {
  Listener listener;
  EXPECT_TRUE(client::port_answers("127.0.0.1", listener.port, 50ms));
  EXPECT_TRUE(client::port_answers("0.0.0.0", listener.port, 50ms));
}

TEST(PortProbe, DataAnswersAtOnce) {
  Listener listener;
  std::thread server([&] {
    const base::Fd peer(::accept(listener.fd.get(), nullptr, nullptr));
    EXPECT_EQ(::send(peer.get(), "x", 1, MSG_NOSIGNAL), 1);
    std::this_thread::sleep_for(50ms);
  });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(client::port_answers("127.0.0.1", listener.port, 10s));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  server.join();
}

// What QEMU's user-mode network does when nothing listens in the guest.
TEST(PortProbe, AcceptedThenClosedDoesNotAnswer) {
  for (const bool reset : {false, true}) {
    Listener listener;
    std::thread server([&] {
      const base::Fd peer(::accept(listener.fd.get(), nullptr, nullptr));
      if (reset) {
        const linger abort{1, 0};
        ::setsockopt(peer.get(), SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
      }
    });
    EXPECT_FALSE(client::port_answers("127.0.0.1", listener.port, 10s)) << reset;
    server.join();
  }
}

TEST(PortProbe, BadAddress) {
  EXPECT_FALSE(client::port_answers("localhost", 1, 50ms));
}
