// What the guest tells its host (spec/guest-kms.md section 5.4). Nothing here can fail a boot.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dstack::guest {

// Bodies above this are dropped by the host, so longer ones are cut at a character boundary.
inline constexpr std::size_t k_max_notification = 4096;

class HostChannel {
 public:
  virtual ~HostChannel() = default;
  // Queues one event; returns at once. Thread-safe.
  virtual void notify(std::string_view event, std::string_view payload) = 0;
  // Waits until everything queued so far was delivered or given up; false when `limit` passed first.
  virtual bool flush(std::chrono::milliseconds limit) = 0;
};

// Nobody listens: no host API is configured.
std::unique_ptr<HostChannel> make_silent_channel();
// HostApi.Notify over HTTP with a bearer token, one event after the other on a thread of its own. An event is
// tried three times; then it is logged and forgotten. `url` ends in the API's mount:
// "http://10.0.2.2:9205/api".
base::Result<std::unique_ptr<HostChannel>> make_http_channel(const std::string& url,
                                                             const std::string& token);

// At most `limit` bytes of `text`, never half a UTF-8 sequence.
std::string cut_text(std::string_view text, std::size_t limit);

}  // namespace dstack::guest
