#include "guest/host_channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "net/server.h"

namespace dstack::guest {
namespace {

using testing::ElementsAre;

class Host {
 public:
  Host() : m_server([this](const net::Request& request) { return take(request); }) {
    m_port = m_server.listen_tcp("127.0.0.1", 0).value();
    m_server.start();
  }
  ~Host() { m_server.stop(); }
  std::string url() const { return base::format("http://127.0.0.1:{}/api", m_port); }
  std::vector<std::string> got() {
    const std::lock_guard lock(m_mutex);
    return m_got;
  }
  int status = 200;

 private:
  net::Response take(const net::Request& request) {
    const std::lock_guard lock(m_mutex);
    const auto json = nlohmann::json::parse(request.body, nullptr, false);
    m_got.push_back(base::format("{} {} {}={}", request.path,
                                 request.headers.get("Authorization").value_or(""), json.value("event", ""),
                                 json.value("payload", "")));
    return net::Response::json(status, status == 200 ? "null" : R"({"error":"no"})");
  }
  std::mutex m_mutex;
  std::vector<std::string> m_got;
  net::Server m_server;
  std::uint16_t m_port = 0;
};

TEST(HostChannel, DeliversInOrderWithTheToken) {
  Host host;
  const auto channel = make_http_channel(host.url(), "t0k").value();
  channel->notify("boot.progress", "one");
  channel->notify("boot.progress", "two");
  channel->notify("boot.error", "three");
  ASSERT_TRUE(channel->flush(std::chrono::seconds(20)));
  EXPECT_THAT(host.got(), ElementsAre("/api/Notify Bearer t0k boot.progress=one",
                                      "/api/Notify Bearer t0k boot.progress=two",
                                      "/api/Notify Bearer t0k boot.error=three"));
}

TEST(HostChannel, ARefusalIsNotTriedAgain) {
  Host host;
  host.status = 400;
  const auto channel = make_http_channel(host.url(), "t").value();
  channel->notify("boot.progress", "x");
  ASSERT_TRUE(channel->flush(std::chrono::seconds(20)));
  EXPECT_EQ(host.got().size(), 1u);
}

TEST(HostChannel, AHostThatIsNotThereStopsNothing) {
  const auto channel = make_http_channel("http://127.0.0.1:1/api", "t").value();
  channel->notify("boot.progress", "x");
  EXPECT_TRUE(channel->flush(std::chrono::seconds(20)));
}

TEST(HostChannel, RefusesABadUrl) {
  EXPECT_FALSE(make_http_channel("vsock://2:1/api", "t").has_value());
}

TEST(CutText, KeepsWholeCharacters) {
  EXPECT_EQ(cut_text("abc", 3), "abc");
  EXPECT_EQ(cut_text("abcd", 3), "abc");
  EXPECT_EQ(cut_text("a\xc3\xa9z", 2), "a");
  EXPECT_EQ(cut_text("a\xc3\xa9z", 3), "a\xc3\xa9");
  EXPECT_EQ(cut_text("\xf0\x9f\x98\x80", 3), "");
}

}  // namespace
}  // namespace dstack::guest
