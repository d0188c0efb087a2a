// One dstackup at a time chooses addresses and ports on this host, whichever installation it works on.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace dstack::host {

// A name among the abstract unix sockets: it is on no file system, and goes with the process that holds it.
class HostLock {
 public:
  struct Options {
    std::string name = "dstackup-chooses";
    std::chrono::milliseconds limit = std::chrono::minutes(2);
    // Called now and then while another has it, with words for people.
    std::function<void(std::string_view)> waiting = [](std::string_view) {};
  };
  // Waits; Code::locked names the process that kept it for longer than `limit`. A holder that is neither root
  // nor this user cannot be a dstackup that installs, so it is not waited for: held() is false then.
  static base::Result<HostLock> acquire(const Options& options);

  bool held() const { return static_cast<bool>(m_fd); }
  // "process 812 of user 1000": who has the name when held() is false.
  const std::string& stranger() const { return m_stranger; }

 private:
  HostLock(base::Fd fd, std::string stranger) : m_fd(std::move(fd)), m_stranger(std::move(stranger)) {}

  base::Fd m_fd;
  std::string m_stranger;
};

}  // namespace dstack::host
