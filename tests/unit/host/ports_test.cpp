#include "host/ports.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace dstack::host {
namespace {

struct Listener {
  base::Fd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  std::uint16_t port = 0;
  Listener() {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
        ::listen(fd.get(), 1) == 0) {
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
      port = ntohs(address.sin_port);
    }
  }
};

PortTest busy(std::set<std::uint16_t> ports) {
  return [ports = std::move(ports)](const std::string&, std::uint16_t port) -> base::Result<bool> {
    return !ports.contains(port);
  };
}

TEST(Ports, BindTest) {
  std::uint16_t port = 0;
  {
    const Listener listener;
    port = listener.port;
    ASSERT_NE(port, 0);
    EXPECT_FALSE(*port_is_free("127.0.0.1", port));
    EXPECT_FALSE(*port_is_free("0.0.0.0", port));
  }
  EXPECT_TRUE(*port_is_free("127.0.0.1", port));
  EXPECT_FALSE(port_is_free("nonsense", 1));
}

// Checks run in threads, and two of them looked at the port of the KMS: each saw the other's test as a
// listener.
TEST(Ports, TestsOfOnePortAtOnceDoNotSeeEachOther) {
  const auto port = *pick_host_port(15'000, {});
  std::atomic<int> busy = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int k = 0; k < 200; ++k) {
          busy += *port_is_free("127.0.0.1", port) ? 0 : 1;
        }
      });
    }
  }
  EXPECT_EQ(busy, 0);
}

TEST(Ports, HolderIsNamed) {
  const Listener listener;
  const auto who = who_listens(listener.port);
  ASSERT_TRUE(who);
  EXPECT_NE(who->find("(pid " + std::to_string(::getpid()) + ")"), std::string::npos) << *who;
  EXPECT_EQ(who_listens(listener.port, "/nonexistent"), std::nullopt);
}

TEST(Ports, Numbers) {
  EXPECT_TRUE(check_port_numbers({{"--a", "127.0.0.1", 1}, {"--b", "127.0.0.1", 2}}));
  const auto zero = check_port_numbers({{"--a", "127.0.0.1", 0}});
  ASSERT_FALSE(zero);
  EXPECT_NE(zero.error().fix.find("between 1 and 65535"), std::string::npos);
  const auto twice = check_port_numbers({{"--a", "127.0.0.1", 7}, {"--b", "0.0.0.0", 7}});
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, base::Code::port_conflict);
  EXPECT_NE(twice.error().message.find("--a and --b"), std::string::npos);
  EXPECT_FALSE(check_port_numbers({{"--a", "::", 7}, {"--b", "127.0.0.2", 7}}));
  EXPECT_TRUE(check_port_numbers({{"--a", "127.0.0.1", 7}, {"--b", "127.0.0.2", 7}}));
}

TEST(Ports, Busy) {
  const auto taken = find_busy_ports({{"--a", "127.0.0.1", 7}, {"--b", "127.0.0.1", 8}}, busy({8}));
  ASSERT_TRUE(taken);
  ASSERT_EQ(taken->size(), 1U);
  EXPECT_EQ(taken->front().port.flag, "--b");
  EXPECT_TRUE(find_busy_ports({{"--a", "127.0.0.1", 8, true}}, busy({8}))->empty()) << "ours is not tested";
  const Listener listener;
  const auto held = find_busy_ports({{"--a", "127.0.0.1", listener.port}});
  ASSERT_TRUE(held);
  ASSERT_EQ(held->size(), 1U);
  EXPECT_NE(held->front().holder.find(std::to_string(::getpid())), std::string::npos);
  EXPECT_FALSE(find_busy_ports({{"--a", "nonsense", 1}}));
}

// The VMM's port policy ends at 20000, so nothing above may be picked.
TEST(Ports, PickStaysInThePolicy) {
  EXPECT_EQ(*pick_host_port(12443, {}, busy({})), 12443);
  EXPECT_EQ(*pick_host_port(12443, {12443}, busy({12444})), 12445);
  EXPECT_EQ(*pick_host_port(20000, {}, busy({})), 20000);
  EXPECT_FALSE(pick_host_port(20000, {}, busy({20000})));
  EXPECT_EQ(*pick_host_port(0, {}, busy({})), 1);
}

}  // namespace
}  // namespace dstack::host
