#include "guest/host_channel.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "base/format.h"
#include "base/log.h"
#include "proto/host_api.pb.h"
#include "proto/prpc.pb.h"
#include "rpc/client.h"

namespace dstack::guest {

namespace {

using base::Result;
using std::chrono::milliseconds;

constexpr std::size_t k_max_queue = 1024;
constexpr int k_attempts = 3;

class SilentChannel : public HostChannel {
 public:
  void notify(std::string_view, std::string_view) override {}
  bool flush(milliseconds) override { return true; }
};

class HttpChannel : public HostChannel {
 public:
  HttpChannel(rpc::Client client) : m_client(std::move(client)), m_thread([this] { work(); }) {}
  HttpChannel(const HttpChannel&) = delete;
  HttpChannel& operator=(const HttpChannel&) = delete;

  ~HttpChannel() override {
    {
      const std::lock_guard lock(m_mutex);
      m_stopping = true;
    }
    m_wake.notify_all();
    m_thread.join();
  }

  void notify(std::string_view event, std::string_view payload) override {
    {
      const std::lock_guard lock(m_mutex);
      if (m_queue.size() >= k_max_queue) {
        return;
      }
      host_api::Notification notification;
      notification.set_event(std::string(event));
      notification.set_payload(cut_text(payload, k_max_notification));
      m_queue.push_back(std::move(notification));
    }
    m_wake.notify_all();
  }

  bool flush(milliseconds limit) override {
    std::unique_lock lock(m_mutex);
    return m_wake.wait_for(lock, limit, [this] { return m_queue.empty() && !m_sending; });
  }

 private:
  void work() {
    std::unique_lock lock(m_mutex);
    while (true) {
      m_wake.wait(lock, [this] { return m_stopping || !m_queue.empty(); });
      if (m_stopping) {
        return;
      }
      const auto notification = std::move(m_queue.front());
      m_queue.pop_front();
      m_sending = true;
      lock.unlock();
      send(notification);
      lock.lock();
      m_sending = false;
      m_wake.notify_all();
    }
  }

  void send(const host_api::Notification& notification) {
    for (int attempt = 1; attempt <= k_attempts; ++attempt) {
      prpc::Empty response;
      const auto sent = m_client.call("Notify", notification, response);
      if (sent) {
        return;
      }
      // A host that answers has decided; only a host that cannot be reached is worth another try.
      const bool answered =
          sent.error().code == base::Code::rpc || sent.error().code == base::Code::unauthorized;
      if (answered || attempt == k_attempts) {
        base::log_warn(base::format("the host did not take the event {}: {}", notification.event(),
                                    sent.error().what()));
        return;
      }
      std::this_thread::sleep_for(milliseconds(100 * attempt));
    }
  }

  rpc::Client m_client;
  std::mutex m_mutex;
  std::condition_variable m_wake;
  std::deque<host_api::Notification> m_queue;
  bool m_sending = false;
  bool m_stopping = false;
  std::thread m_thread;
};

}  // namespace

std::unique_ptr<HostChannel> make_silent_channel() {
  return std::make_unique<SilentChannel>();
}

Result<std::unique_ptr<HostChannel>> make_http_channel(const std::string& url, const std::string& token) {
  DS_TRY(auto endpoint, net::Endpoint::parse(url));
  net::ClientOptions options;
  options.connect_timeout = milliseconds(5'000);
  options.timeout = milliseconds(10'000);
  options.max_body = 64 * 1024;
  return std::make_unique<HttpChannel>(rpc::Client(net::Client(std::move(endpoint), options), "", token));
}

std::string cut_text(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) {
    return std::string(text);
  }
  std::size_t end = limit;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) {
    --end;
  }
  return std::string(text.substr(0, end));
}

}  // namespace dstack::guest
