#include "host/supervisor_handover.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "host/supervisor_wire.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Json = nlohmann::json;
using Clock = ServiceMemory::Clock;

namespace {

constexpr off_t k_max_memory = 16 * 1024 * 1024;

std::int64_t to_number(Clock::time_point time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count();
}

Clock::time_point to_time(const Json& json) {
  return Clock::time_point(std::chrono::nanoseconds(json.get<std::int64_t>()));
}

Json service_to_json(const ServiceMemory& service) {
  Json json = {{"spec", to_json(service.spec)},
               {"cookie", service.cookie},
               {"notify_fd", service.notify_fd},
               {"pid", service.pid},
               {"state", static_cast<int>(service.state)},
               {"since_unix", service.since_unix},
               {"entered", to_number(service.entered)},
               {"commanded", service.commanded},
               {"timed_out", service.timed_out},
               {"text", service.text},
               {"error_number", service.error_number},
               {"result", service.result},
               {"restarts", service.restarts},
               {"delay", service.delay.count()},
               {"starts", Json::array()}};
  if (service.deadline) {
    json["deadline"] = to_number(*service.deadline);
  }
  if (service.next) {
    json["next"] = to_json(*service.next);
  }
  for (const auto& start : service.starts) {
    json["starts"].push_back(to_number(start));
  }
  return json;
}

ServiceMemory service_from_json(const Json& json) {
  ServiceMemory service;
  service.spec = parse_spec(json.at("spec"));
  json.at("cookie").get_to(service.cookie);
  json.at("notify_fd").get_to(service.notify_fd);
  json.at("pid").get_to(service.pid);
  service.state = static_cast<ServiceState>(json.at("state").get<int>());
  json.at("since_unix").get_to(service.since_unix);
  service.entered = to_time(json.at("entered"));
  json.at("commanded").get_to(service.commanded);
  json.at("timed_out").get_to(service.timed_out);
  json.at("text").get_to(service.text);
  json.at("error_number").get_to(service.error_number);
  json.at("result").get_to(service.result);
  json.at("restarts").get_to(service.restarts);
  service.delay = std::chrono::milliseconds(json.at("delay").get<std::int64_t>());
  if (json.contains("deadline")) {
    service.deadline = to_time(json["deadline"]);
  }
  if (json.contains("next")) {
    service.next = parse_spec(json["next"]);
  }
  for (const auto& start : json.at("starts")) {
    service.starts.push_back(to_time(start));
  }
  return service;
}

std::vector<int> descriptors(const SupervisorMemory& memory) {
  std::vector<int> out = {memory.control_fd};
  for (const auto& service : memory.services) {
    if (service.notify_fd >= 0) {
      out.push_back(service.notify_fd);
    }
  }
  for (const auto& connection : memory.connections) {
    out.push_back(connection.fd);
  }
  return out;
}

bool pass_on(int fd, bool on) {
  const int flags = ::fcntl(fd, F_GETFD);
  return flags >= 0 && ::fcntl(fd, F_SETFD, on ? flags & ~FD_CLOEXEC : flags | FD_CLOEXEC) == 0;
}

base::Error failed(const std::string& program, int error) {
  return base::fail_errno(Code::service_manager, "the supervisor cannot become " + program, error).error();
}

}  // namespace

std::string to_text(const SupervisorMemory& memory) {
  Json json = {
      {"format", k_handover_format},           {"run", memory.options.run.string()},
      {"logs", memory.options.logs.string()},  {"cgroup_root", memory.options.cgroup_root},
      {"log_limit", memory.options.log_limit}, {"rotation_period", memory.options.rotation_period.count()},
      {"control_fd", memory.control_fd},       {"services", Json::array()},
      {"connections", Json::array()}};
  for (const auto& service : memory.services) {
    json["services"].push_back(service_to_json(service));
  }
  for (const auto& connection : memory.connections) {
    json["connections"].push_back(
        {{"fd", connection.fd}, {"input", connection.input}, {"waiting", connection.waiting}});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<SupervisorMemory> parse_memory(std::string_view text) {
  try {
    const Json json = Json::parse(text);
    if (const int format = json.at("format").get<int>(); format != k_handover_format) {
      return base::fail(Code::parse,
                        base::format("what the supervisor of before handed over is of format {}, not {}",
                                     format, k_handover_format));
    }
    SupervisorMemory memory;
    memory.options.run = json.at("run").get<std::string>();
    memory.options.logs = json.at("logs").get<std::string>();
    json.at("cgroup_root").get_to(memory.options.cgroup_root);
    json.at("log_limit").get_to(memory.options.log_limit);
    memory.options.rotation_period =
        std::chrono::milliseconds(json.at("rotation_period").get<std::int64_t>());
    json.at("control_fd").get_to(memory.control_fd);
    for (const auto& service : json.at("services")) {
      memory.services.push_back(service_from_json(service));
      const auto state = memory.services.back().state;
      if (state < ServiceState::unknown || state > ServiceState::failed) {
        return base::fail(Code::parse, "what the supervisor of before handed over has an unknown state");
      }
    }
    for (const auto& connection : json.at("connections")) {
      memory.connections.push_back({connection.at("fd").get<int>(), connection.at("input").get<std::string>(),
                                    connection.at("waiting").get<bool>()});
    }
    return memory;
  } catch (const Json::exception& e) {
    return base::fail(Code::parse,
                      std::string("what the supervisor of before handed over is malformed: ") + e.what());
  }
}

base::Error become(const std::string& program, const SupervisorMemory& memory) {
  const base::Fd file(::memfd_create("dstack-supervisor", MFD_CLOEXEC));
  const auto text = to_text(memory);
  if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return failed(program, errno);
  }
  auto passed = descriptors(memory);
  passed.push_back(file.get());
  const auto number = std::to_string(file.get());
  std::vector<std::string> words = {program,     "supervise",
                                    "--run-dir", memory.options.run.string(),
                                    "--log-dir", memory.options.logs.string(),
                                    "--go-on",   number};
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (auto& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  int error = 0;
  for (const int fd : passed) {
    error = pass_on(fd, true) ? error : errno;
  }
  if (error == 0) {
    ::execv(program.c_str(), argv.data());
    error = errno;
  }
  for (const int fd : passed) {
    pass_on(fd, false);
  }
  return failed(program, error);
}

Result<SupervisorMemory> take_memory(base::Fd file) {
  struct stat info = {};
  if (!pass_on(file.get(), false) || ::fstat(file.get(), &info) != 0 || info.st_size > k_max_memory) {
    return base::fail(Code::invalid_argument, "--go-on does not name what a supervisor handed over");
  }
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  if (::pread(file.get(), text.data(), text.size(), 0) != info.st_size) {
    return base::fail_errno(Code::io, "cannot read what the supervisor of before handed over", errno);
  }
  DS_TRY(auto memory, parse_memory(text));
  for (const int fd : descriptors(memory)) {
    if (!pass_on(fd, false)) {
      return base::fail_errno(Code::service_manager, "a descriptor of the supervisor of before is not there",
                              errno);
    }
  }
  return memory;
}

}  // namespace dstack::host
