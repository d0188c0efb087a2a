// Stand-ins for what a boot needs from the machine.
#pragma once

#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "guest/host_channel.h"
#include "guest/mounts.h"
#include "guest/runner.h"

namespace dstack::guest {

class FakeMounter : public Mounter {
 public:
  // Called for each mount; may put files there.
  std::function<base::Result<>(const MountRequest&)> on_mount;
  std::vector<MountRequest> mounts;
  std::vector<std::filesystem::path> unmounts;

  base::Result<> mount(const MountRequest& request) override {
    const std::lock_guard lock(m_mutex);
    mounts.push_back(request);
    std::filesystem::create_directories(request.target);
    return on_mount ? on_mount(request) : base::Result<>();
  }
  base::Result<> unmount(const std::filesystem::path& target) override {
    const std::lock_guard lock(m_mutex);
    unmounts.push_back(target);
    return {};
  }

 private:
  std::mutex m_mutex;
};

class FakeRunner : public Runner {
 public:
  std::function<base::Result<base::Output>(const base::Command&)> on_run;
  std::function<base::Result<pid_t>(const base::Spawn&)> on_spawn;
  std::vector<std::vector<std::string>> commands;

  base::Result<base::Output> run(const base::Command& command) override {
    {
      const std::lock_guard lock(m_mutex);
      commands.push_back(command.argv);
    }
    return on_run ? on_run(command) : base::Result<base::Output>(base::Output{});
  }
  base::Result<pid_t> spawn(const base::Spawn& what) override {
    {
      const std::lock_guard lock(m_mutex);
      commands.push_back(what.argv);
    }
    return on_spawn ? on_spawn(what) : base::Result<pid_t>(0);
  }
  bool ran(std::string_view program) const {
    for (const auto& argv : commands) {
      if (argv[0].ends_with(program)) {
        return true;
      }
    }
    return false;
  }

 private:
  std::mutex m_mutex;
};

using Notifications = std::vector<std::pair<std::string, std::string>>;

class FakeChannel : public HostChannel {
 public:
  explicit FakeChannel(Notifications& sent) : m_sent(sent) {}
  void notify(std::string_view event, std::string_view payload) override {
    const std::lock_guard lock(m_mutex);
    m_sent.emplace_back(event, payload);
  }
  bool flush(std::chrono::milliseconds) override { return true; }

 private:
  std::mutex m_mutex;
  Notifications& m_sent;
};

}  // namespace dstack::guest
