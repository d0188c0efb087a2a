// The app's containers: podman's API service, and docker-compose against it.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "guest/runner.h"
#include "net/http.h"

namespace dstack::guest {

struct ContainerPaths {
  std::filesystem::path data = "/dstack/data";  // the data disk
  std::filesystem::path work = "/dstack";       // holds docker-compose.yaml; its working directory
  std::filesystem::path run = "/run/dstack";    // generated configuration
  std::filesystem::path socket = "/run/podman/podman.sock";

  std::filesystem::path graph_root() const { return data / "containers"; }
  std::filesystem::path compose_file() const { return work / "docker-compose.yaml"; }
};

// The text of storage.conf: overlay storage on the data disk, with read-only image stores beside it.
std::string storage_config(const ContainerPaths& paths,
                           const std::vector<std::filesystem::path>& image_stores);

class Containers {
 public:
  Containers(Runner& runner, ContainerPaths paths) : m_runner(runner), m_paths(std::move(paths)) {}

  // Writes the configuration and starts `podman system service`, which then gets ready on its own.
  base::Result<> start_service(const std::vector<std::filesystem::path>& image_stores);
  // Until the service's socket takes connections. Code::containers when it ended or `limit` passed.
  base::Result<> wait_for_service(std::chrono::milliseconds limit);
  // Writes the compose file and brings it up. `on_line` gets docker-compose's output line by line.
  // Code::containers "failed to start containers", the cause being the last lines of its output. When a boot
  // that was cut short has left a half-made container in the way, it is removed and the start tried once
  // more.
  base::Result<> up(std::string_view compose_text, std::function<void(std::string_view)> on_line);
  // Asks all containers to stop and waits for it at most `limit`; then they are left to the power-off.
  void stop(std::chrono::seconds limit);

  const ContainerPaths& paths() const { return m_paths; }

 private:
  std::vector<std::string> environment() const;
  base::Result<> compose_up(const std::function<void(std::string_view)>& on_line);
  // Removes containers that are in podman's storage but not in its database; returns how many there were.
  std::size_t remove_leftovers();
  base::Result<net::Response> ask_service(const std::string& method, const std::string& path,
                                          const std::string& query, std::chrono::seconds limit) const;

  Runner& m_runner;
  ContainerPaths m_paths;
  pid_t m_service = -1;
};

}  // namespace dstack::guest
