// Container logs on the console, for apps whose logs are public.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <thread>

namespace dstack::guest {

// One line of podman's k8s-file log: "2026-01-02T03:04:05.678901234+00:00 stdout F text". Returns the text
// (of full and partial lines alike) or an empty view for what has not this form.
std::string_view k8s_log_text(std::string_view line);

// When this machine was started, "2026-01-02T03:04:05" in UTC.
std::string boot_time();

// Follows every container's log file under podman's storage and hands on "[name] text" for each new line.
class LogForwarder {
 public:
  // Lines written before `since` (as boot_time() writes it; empty = all) are left out: containers outlive a
  // boot.
  LogForwarder(std::filesystem::path graph_root, std::function<void(std::string_view)> sink,
               std::string since = {});
  ~LogForwarder();
  LogForwarder(const LogForwarder&) = delete;
  LogForwarder& operator=(const LogForwarder&) = delete;

  // Looks for new lines twice a second on a thread of its own, until destruction.
  void start();
  // One look.
  void poll();

 private:
  struct Source {
    std::string name;
    std::uint64_t offset = 0;
    std::uint64_t inode = 0;
    std::string rest;  // a line whose end is not there yet
  };
  void read_new(const std::filesystem::path& file, Source& source);
  std::string name_of(const std::string& id) const;

  std::filesystem::path m_containers;  // <graph root>/overlay-containers
  std::function<void(std::string_view)> m_sink;
  std::string m_since;
  std::map<std::string, Source> m_sources;  // by container id
  std::atomic<bool> m_stopping{false};
  std::thread m_thread;
};

}  // namespace dstack::guest
