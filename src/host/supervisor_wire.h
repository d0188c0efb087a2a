// What the supervisor's client and daemon say to each other: one JSON line each way per connection.
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "host/service_manager.h"

namespace dstack::host {

struct SupervisorRequest {
  enum class Verb { ping, start, restart, stop, remove, status, shut_down, become };
  Verb verb = Verb::ping;
  ServiceSpec spec;  // start, restart
  std::string name;  // stop, remove, status; become: the program
};

struct SupervisorReply {
  bool ok = true;
  base::Error error;     // when !ok
  ServiceStatus status;  // status
};

std::string to_line(const SupervisorRequest& request);
std::string to_line(const SupervisorReply& reply);
base::Result<SupervisorRequest> parse_request(std::string_view line);
base::Result<SupervisorReply> parse_reply(std::string_view line);

// The part of a definition that the supervisor works by, and back. parse_spec() throws nlohmann's exceptions.
nlohmann::json to_json(const ServiceSpec& spec);
ServiceSpec parse_spec(const nlohmann::json& json);

// Unix stream sockets whose path may be longer than sun_path allows: the directory is opened and the name is
// given relative to it.
base::Result<base::Fd> listen_control_socket(const fs::path& path);
// Code::connect_failed when nothing listens, Code::timeout when what listens takes no more connections.
base::Result<base::Fd> connect_control_socket(const fs::path& path,
                                              std::chrono::milliseconds patience = std::chrono::seconds(5));

}  // namespace dstack::host
