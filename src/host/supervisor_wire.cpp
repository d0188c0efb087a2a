#include "host/supervisor_wire.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/format.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Json = nlohmann::json;

namespace {

constexpr std::array<const char*, 8> k_verbs = {"ping",   "start",  "restart",   "stop",
                                                "remove", "status", "shut_down", "become"};

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

struct ControlAddress {
  base::Fd directory;  // keeps /proc/self/fd/<n> alive
  sockaddr_un address = {};
  socklen_t length = 0;
};

Result<ControlAddress> control_address(const fs::path& path) {
  ControlAddress out;
  out.directory = base::Fd(::open(path.parent_path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!out.directory) {
    return base::fail_errno(errno == ENOENT ? Code::connect_failed : Code::io,
                            "cannot open the directory " + path.parent_path().string(), errno);
  }
  const auto text = base::format("/proc/self/fd/{}/{}", out.directory.get(), path.filename().string());
  if (text.size() >= sizeof out.address.sun_path) {
    return base::fail(Code::invalid_argument, "the socket name " + path.filename().string() + " is too long");
  }
  out.address.sun_family = AF_UNIX;
  std::memcpy(out.address.sun_path, text.c_str(), text.size() + 1);
  out.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size() + 1);
  return out;
}

Result<base::Fd> stream_socket() {
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) {
    return base::fail_errno(Code::net, "cannot make a unix socket", errno);
  }
  return fd;
}

}  // namespace

Json to_json(const ServiceSpec& spec) {
  return {{"name", spec.name},
          {"description", spec.description},
          {"argv", spec.argv},
          {"environment", spec.environment},
          {"directory", spec.directory},
          {"memory_max", spec.memory_max},
          {"tasks_max", spec.tasks_max},
          {"open_files", spec.open_files},
          {"children_outlive", spec.children_outlive},
          {"start_timeout", spec.start_timeout.count()},
          {"stop_timeout", spec.stop_timeout.count()},
          {"restart_delay", spec.restart_delay.count()},
          {"start_limit", spec.start_limit},
          {"start_limit_interval", spec.start_limit_interval.count()}};
}

ServiceSpec parse_spec(const Json& json) {
  ServiceSpec spec;
  json.at("name").get_to(spec.name);
  json.at("description").get_to(spec.description);
  json.at("argv").get_to(spec.argv);
  json.at("environment").get_to(spec.environment);
  json.at("directory").get_to(spec.directory);
  spec.memory_max = json.value("memory_max", std::uint64_t{0});
  spec.tasks_max = json.value("tasks_max", std::uint64_t{0});
  spec.open_files = json.value("open_files", std::uint64_t{0});
  json.at("children_outlive").get_to(spec.children_outlive);
  spec.start_timeout = std::chrono::milliseconds(json.at("start_timeout").get<long long>());
  spec.stop_timeout = std::chrono::milliseconds(json.at("stop_timeout").get<long long>());
  spec.restart_delay = std::chrono::milliseconds(json.at("restart_delay").get<long long>());
  json.at("start_limit").get_to(spec.start_limit);
  spec.start_limit_interval = std::chrono::milliseconds(json.at("start_limit_interval").get<long long>());
  return spec;
}

std::string_view to_string(ServiceState state) {
  constexpr std::array<std::string_view, 7> names = {"unknown",  "stopped", "starting", "active",
                                                     "stopping", "waiting", "failed"};
  return names[static_cast<std::size_t>(state)];
}

std::string to_line(const SupervisorRequest& request) {
  Json json = {{"verb", k_verbs[static_cast<std::size_t>(request.verb)]}, {"name", request.name}};
  if (request.verb == SupervisorRequest::Verb::start || request.verb == SupervisorRequest::Verb::restart) {
    json["spec"] = to_json(request.spec);
  }
  return dump(json);
}

std::string to_line(const SupervisorReply& reply) {
  Json json = {{"ok", reply.ok}};
  if (!reply.ok) {
    json["error"] = {{"code", static_cast<int>(reply.error.code)},
                     {"message", reply.error.message},
                     {"cause", reply.error.cause},
                     {"fix", reply.error.fix}};
  }
  const auto& s = reply.status;
  json["status"] = {{"name", s.name},         {"state", static_cast<int>(s.state)}, {"pid", s.pid},
                    {"text", s.text},         {"error_number", s.error_number},     {"result", s.result},
                    {"restarts", s.restarts}, {"since_unix", s.since_unix}};
  return dump(json);
}

Result<SupervisorRequest> parse_request(std::string_view line) {
  try {
    const Json json = Json::parse(line);
    SupervisorRequest request;
    const auto verb = json.at("verb").get<std::string>();
    std::size_t index = 0;
    while (index < k_verbs.size() && verb != k_verbs[index]) {
      ++index;
    }
    if (index == k_verbs.size()) {
      return base::fail(Code::parse, "the supervisor has no verb '" + verb + "'");
    }
    request.verb = static_cast<SupervisorRequest::Verb>(index);
    request.name = json.value("name", "");
    if (json.contains("spec")) {
      request.spec = parse_spec(json["spec"]);
    }
    return request;
  } catch (const Json::exception& e) {
    return base::fail(Code::parse, std::string("malformed supervisor request: ") + e.what());
  }
}

Result<SupervisorReply> parse_reply(std::string_view line) {
  try {
    const Json json = Json::parse(line);
    SupervisorReply reply;
    reply.ok = json.at("ok").get<bool>();
    if (!reply.ok) {
      const auto& error = json.at("error");
      reply.error = {static_cast<Code>(error.at("code").get<int>()), error.at("message").get<std::string>(),
                     error.at("cause").get<std::string>(), error.at("fix").get<std::string>()};
    }
    const auto& s = json.at("status");
    reply.status.name = s.at("name").get<std::string>();
    const int state = s.at("state").get<int>();
    if (state < 0 || state > static_cast<int>(ServiceState::failed)) {
      return base::fail(Code::parse, "malformed supervisor reply: unknown state");
    }
    reply.status.state = static_cast<ServiceState>(state);
    reply.status.pid = s.at("pid").get<pid_t>();
    reply.status.text = s.at("text").get<std::string>();
    reply.status.error_number = s.at("error_number").get<int>();
    reply.status.result = s.at("result").get<std::string>();
    reply.status.restarts = s.at("restarts").get<unsigned>();
    reply.status.since_unix = s.at("since_unix").get<std::int64_t>();
    return reply;
  } catch (const Json::exception& e) {
    return base::fail(Code::parse, std::string("malformed supervisor reply: ") + e.what());
  }
}

Result<base::Fd> listen_control_socket(const fs::path& path) {
  if (connect_control_socket(path)) {
    return base::fail(Code::locked, "a supervisor already runs at " + path.string());
  }
  DS_TRY(const auto address, control_address(path));
  ::unlink(path.c_str());
  DS_TRY(auto fd, stream_socket());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.address), address.length) != 0 ||
      ::chmod(path.c_str(), 0600) != 0 || ::listen(fd.get(), 16) != 0) {
    return base::fail_errno(Code::net, "cannot listen at " + path.string(), errno);
  }
  return fd;
}

Result<base::Fd> connect_control_socket(const fs::path& path, std::chrono::milliseconds patience) {
  DS_TRY(const auto address, control_address(path));
  DS_TRY(auto fd, stream_socket());
  // One that hangs takes no connections; when enough wait for it, the next one would wait here.
  const timeval limit = {patience.count() / 1000, (patience.count() % 1000) * 1000};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.address), address.length) != 0) {
    return base::fail_errno(errno == EAGAIN ? Code::timeout : Code::connect_failed,
                            "no supervisor answers at " + path.string(), errno);
  }
  return fd;
}

}  // namespace dstack::host
