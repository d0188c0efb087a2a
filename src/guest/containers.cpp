#include "guest/containers.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "net/client.h"

namespace dstack::guest {

namespace {

using base::Code;
using base::Result;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
namespace fs = std::filesystem;

constexpr const char* k_podman = "/usr/bin/podman";
constexpr const char* k_compose = "/usr/libexec/docker/cli-plugins/docker-compose";
constexpr const char* k_project = "dstack";
constexpr auto k_request_limit = std::chrono::seconds(30);
constexpr std::size_t k_short_id = 12;

// TOML basic strings: the paths are ours or checked, but a quote must not end one.
std::string quoted(const fs::path& path) {
  std::string out = "\"";
  for (const char c : path.string()) {
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    out += c;
  }
  return out + "\"";
}

bool accepts_connections(const fs::path& socket) {
  const base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto name = socket.string();
  if (!fd || name.size() >= sizeof(address.sun_path)) {
    return false;
  }
  std::memcpy(address.sun_path, name.data(), name.size());
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

// The ids in a JSON list of containers, as podman's API ("Id") and its storage ("id") write it.
std::vector<std::string> container_ids(std::string_view json, const char* key) {
  std::vector<std::string> ids;
  const auto list = nlohmann::json::parse(json, nullptr, false);
  if (!list.is_array()) {
    return ids;
  }
  for (const auto& container : list) {
    const auto id = container.is_object() ? container.value(key, nlohmann::json()) : nlohmann::json();
    // It becomes part of a URL.
    if (id.is_string() && base::from_hex(id.get_ref<const std::string&>())) {
      ids.push_back(id.get<std::string>());
    }
  }
  return ids;
}

}  // namespace

std::string storage_config(const ContainerPaths& paths, const std::vector<fs::path>& image_stores) {
  std::string stores;
  for (const auto& store : image_stores) {
    stores += (stores.empty() ? "" : ", ") + quoted(store);
  }
  return base::format(
      "[storage]\n"
      "driver = \"overlay\"\n"
      "graphroot = {}\n"
      "runroot = \"/run/containers/storage\"\n"
      "[storage.options]\n"
      "additionalimagestores = [{}]\n",
      quoted(paths.graph_root()), stores);
}

std::vector<std::string> Containers::environment() const {
  return {
      base::format("PATH={}", base::k_tool_path),
      "HOME=/root",
      "LANG=C.UTF-8",
      base::format("CONTAINERS_STORAGE_CONF={}", (m_paths.run / "storage.conf").string()),
      base::format("TMPDIR={}", (m_paths.data / "tmp").string()),
      base::format("DOCKER_CONFIG={}", (m_paths.run / "docker").string()),
      base::format("DOCKER_HOST=unix://{}", m_paths.socket.string()),
      // Collecting garbage in programs that run for seconds costs more time than it saves memory.
      "GOGC=off",
      "GOMEMLIMIT=200MiB",
  };
}

Result<> Containers::start_service(const std::vector<fs::path>& image_stores) {
  DS_CHECK(base::make_dirs(m_paths.run));
  DS_CHECK(base::make_dirs(m_paths.socket.parent_path(), 0700));
  DS_CHECK(base::make_dirs(m_paths.graph_root(), 0700));
  DS_CHECK(base::make_dirs(m_paths.data / "tmp", 0700));
  DS_CHECK(base::make_dirs(m_paths.run / "docker", 0700));
  DS_CHECK(base::write_file_atomic(m_paths.run / "storage.conf", storage_config(m_paths, image_stores)));
  base::Spawn service;
  service.argv = {k_podman, "system", "service", "--time=0",
                  base::format("unix://{}", m_paths.socket.string())};
  service.environment = environment();
  DS_TRY(m_service, m_runner.spawn(service));
  return {};
}

Result<> Containers::wait_for_service(milliseconds limit) {
  const auto deadline = steady_clock::now() + limit;
  while (!accepts_connections(m_paths.socket)) {
    int status = 0;
    if (m_service > 0 && ::waitpid(m_service, &status, WNOHANG) == m_service) {
      m_service = -1;
      return base::fail(Code::containers,
                        base::format("podman's API service ended with status {}",
                                     WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)));
    }
    if (steady_clock::now() >= deadline) {
      return base::fail(Code::containers, "podman's API service does not answer");
    }
    std::this_thread::sleep_for(milliseconds(10));
  }
  return {};
}

Result<> Containers::up(std::string_view compose_text, std::function<void(std::string_view)> on_line) {
  DS_CHECK(base::write_file_atomic(m_paths.compose_file(), compose_text));
  auto up = compose_up(on_line);
  if (!up && remove_leftovers() > 0) {
    up = compose_up(on_line);
  }
  DS_CHECK(std::move(up));
  // Whoever hears that the app is up may pull the plug the next moment.
  const base::Fd data(::open(m_paths.data.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!data || ::syncfs(data.get()) != 0) {
    return base::fail_errno(Code::data_disk, "cannot write everything to the data disk", errno);
  }
  return {};
}

Result<> Containers::compose_up(const std::function<void(std::string_view)>& on_line) {
  base::Command command;
  command.argv = {k_compose, "--progress", "plain",
                  "--ansi",  "never",      "-p",
                  k_project, "-f",         m_paths.compose_file().string(),
                  "up",      "-d",         "--remove-orphans"};
  command.environment = environment();
  command.directory = m_paths.work.string();
  command.timeout = std::chrono::minutes(60);  // images may have to be pulled
  command.on_line = on_line;
  DS_TRY(const auto output, m_runner.run(command));
  if (output.exit_code != 0) {
    return base::fail(program_error(Code::containers, "failed to start containers", output));
  }
  return {};
}

Result<net::Response> Containers::ask_service(const std::string& method, const std::string& path,
                                              const std::string& query, std::chrono::seconds limit) const {
  net::ClientOptions options;
  options.timeout = limit;
  const net::Client service({net::Endpoint::Kind::unix_socket, m_paths.socket.string(), {}, 0, {}}, options);
  net::Request request;
  request.method = method;
  request.path = path;
  request.query = query;
  return service.send(request);
}

std::size_t Containers::remove_leftovers() {
  const auto stored = base::read_file(m_paths.graph_root() / "overlay-containers" / "containers.json");
  if (!stored) {
    return 0;
  }
  const auto answer = ask_service("GET", "/v4.0.0/libpod/containers/json", "all=true", k_request_limit);
  if (!answer || answer->status != 200) {
    return 0;
  }
  const auto known = container_ids(answer->body, "Id");
  std::size_t removed = 0;
  for (const auto& id : container_ids(*stored, "id")) {
    if (std::ranges::find(known, id) != known.end()) {
      continue;
    }
    base::log_warn(base::format("removing the half-made container {}", id.substr(0, k_short_id)));
    const auto gone = ask_service("DELETE", "/v4.0.0/libpod/containers/" + id, "force=true", k_request_limit);
    removed += gone && gone->status == 200 ? 1 : 0;
  }
  return removed;
}

void Containers::stop(std::chrono::seconds limit) {
  // Through the service, which is there already: another podman process would take seconds to start.
  const auto answer = ask_service("GET", "/v1.41/containers/json", "", limit + std::chrono::seconds(5));
  if (!answer || answer->status != 200) {
    base::log_warn("podman does not say which containers run; they are left to the power-off");
    return;
  }
  std::vector<std::jthread> stops;
  for (const auto& id : container_ids(answer->body, "Id")) {
    stops.emplace_back([this, id, limit] {
      const auto stopped = ask_service("POST", base::format("/v1.41/containers/{}/stop", id),
                                       base::format("t={}", limit.count()), limit + std::chrono::seconds(5));
      // 304: it has stopped by itself.
      if (!stopped || (stopped->status != 204 && stopped->status != 304)) {
        base::log_warn(base::format("the container {} did not stop", id.substr(0, k_short_id)));
      }
    });
  }
}

}  // namespace dstack::guest
