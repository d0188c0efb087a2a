#include "net/ready_set.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <functional>
#include <stdexcept>

#include "base/fd.h"

namespace dstack::net {
namespace {

struct Told final : ReadyHandler {
  void on_ready(std::uint32_t events) override {
    ++times;
    last = events;
    if (then) {
      then();
    }
  }
  int times = 0;
  std::uint32_t last = 0;
  std::function<void()> then;
};

struct Pair {
  Pair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) {
      throw std::runtime_error("socketpair");
    }
    ours.reset(fds[0]);
    theirs.reset(fds[1]);
  }
  void send() { EXPECT_EQ(::send(theirs.get(), "x", 1, 0), 1); }
  base::Fd ours;
  base::Fd theirs;
};

struct ReadySetTest : testing::Test {
  boost::asio::io_context io;
  ReadySet set{io};

  void SetUp() override { set.start(); }
  void run() {
    io.restart();
    io.poll();
  }
};

TEST_F(ReadySetTest, TellsOfEachArrivalOnce) {
  Pair pair;
  Told told;
  ASSERT_TRUE(set.add(pair.ours.get(), told));
  run();
  EXPECT_EQ(told.times, 0);
  pair.send();
  run();
  EXPECT_EQ(told.times, 1);
  EXPECT_EQ(told.last, EPOLLIN);
  run();
  EXPECT_EQ(told.times, 1) << "what was told is told again";
  pair.send();
  run();
  EXPECT_EQ(told.times, 2);
}

TEST_F(ReadySetTest, TellsThatThePeerHasGone) {
  Pair pair;
  Told told;
  ASSERT_TRUE(set.add(pair.ours.get(), told));
  ::shutdown(pair.theirs.get(), SHUT_WR);
  run();
  EXPECT_EQ(told.last & EPOLLRDHUP, std::uint32_t{EPOLLRDHUP});
  EXPECT_EQ(told.last & EPOLLHUP, 0U);
  pair.theirs.reset();
  run();
  EXPECT_EQ(told.last & EPOLLHUP, std::uint32_t{EPOLLHUP});
}

TEST_F(ReadySetTest, TellsOfRoomToWriteOnlyWhenAsked) {
  Pair pair;
  Told told;
  ASSERT_TRUE(set.add(pair.ours.get(), told));
  const std::string block(64 * 1024, 'x');
  while (::send(pair.ours.get(), block.data(), block.size(), 0) > 0) {
  }
  run();
  EXPECT_EQ(told.times, 0);
  ASSERT_TRUE(set.add_writing(pair.ours.get(), told));
  run();
  EXPECT_EQ(told.times, 0) << "there is no room yet";
  std::string sink(1 << 20, '\0');
  while (::recv(pair.theirs.get(), sink.data(), sink.size(), 0) > 0) {
  }
  run();
  EXPECT_EQ(told.last & EPOLLOUT, std::uint32_t{EPOLLOUT});
}

TEST_F(ReadySetTest, TellsOfRoomThatIsThereAlready) {
  Pair pair;
  Told told;
  ASSERT_TRUE(set.add(pair.ours.get(), told));
  ASSERT_TRUE(set.add_writing(pair.ours.get(), told));
  run();
  EXPECT_EQ(told.last, EPOLLOUT);
}

// A child that is just being started has copies of all descriptors.
TEST_F(ReadySetTest, WhatWasRemovedIsSilentThoughSomebodyElseHoldsIt) {
  Pair pair;
  auto told = std::make_shared<Told>();
  ASSERT_TRUE(set.add(pair.ours.get(), *told));
  const base::Fd copy(::dup(pair.ours.get()));
  set.remove(pair.ours.get(), told);
  pair.ours.reset();
  pair.send();
  run();
  EXPECT_EQ(told->times, 0);
}

TEST_F(ReadySetTest, AHandlerOutlivesTheEventsThatNameIt) {
  Pair first;
  Pair second;
  std::shared_ptr<Told> handlers[2] = {std::make_shared<Told>(), std::make_shared<Told>()};
  std::weak_ptr<Told> watched[2] = {handlers[0], handlers[1]};
  base::Fd* const sockets[2] = {&first.ours, &second.ours};
  int told = 0;
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(set.add(sockets[i]->get(), *handlers[i]));
    // Whoever is first ends both.
    handlers[i]->then = [&] {
      ++told;
      for (int k = 0; k < 2; ++k) {
        if (handlers[k]) {
          set.remove(sockets[k]->get(), std::move(handlers[k]));
          sockets[k]->reset();
        }
      }
    };
  }
  first.send();
  second.send();
  run();
  EXPECT_EQ(told, 2) << "an event that was taken already is told";
  EXPECT_TRUE(watched[0].expired());
  EXPECT_TRUE(watched[1].expired());
}

TEST_F(ReadySetTest, AHandlerThatThrowsTakesNothingFromTheOthers) {
  Pair pairs[3];
  Told told[3];
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(set.add(pairs[i].ours.get(), told[i]));
    told[i].then = [] { throw std::bad_alloc(); };
    pairs[i].send();
  }
  run();
  for (const auto& each : told) {
    EXPECT_EQ(each.times, 1);
  }
  pairs[1].send();
  run();
  EXPECT_EQ(told[1].times, 2);
}

TEST_F(ReadySetTest, MoreThanOneBatchIsTold) {
  std::vector<Pair> pairs(200);
  std::vector<Told> told(200);
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    ASSERT_TRUE(set.add(pairs[i].ours.get(), told[i]));
    pairs[i].send();
  }
  run();
  for (const auto& each : told) {
    EXPECT_EQ(each.times, 1);
  }
}

TEST_F(ReadySetTest, ABadDescriptorIsAnError) {
  Told told;
  const auto added = set.add(-1, told);
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code, base::Code::io);
}

}  // namespace
}  // namespace dstack::net
