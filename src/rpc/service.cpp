#include "rpc/service.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "proto/prpc.pb.h"
#include "rpc/json.h"

namespace dstack::rpc {

namespace {

using base::Code;
using base::Error;

bool wants_json(const net::Request& request) {
  if (request.method == "GET") {
    return true;
  }
  const auto flag = request.query_value("json");
  if (flag && (flag->empty() || *flag == "1" || *flag == "true")) {
    return true;
  }
  std::string type(request.headers.get("Content-Type").value_or(""));
  std::ranges::transform(type, type.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return type.find("json") != std::string::npos;
}

net::Response reply(int status, bool json, std::string body) {
  net::Response response;
  response.status = status;
  response.headers.add("Content-Type", json ? "application/json" : "application/octet-stream");
  response.body = std::move(body);
  return response;
}

net::Response reply_error(bool json, const Error& error) {
  std::string body;
  if (json) {
    body = nlohmann::json{{"error", error.what()}}.dump(2, ' ', /*ensure_ascii=*/true,
                                                        nlohmann::json::error_handler_t::replace);
  } else {
    prpc::PrpcError message;
    message.set_message(error.what());
    body = message.SerializeAsString();
  }
  auto response = reply(400, json, std::move(body));
  response.headers.add("X-Dstack-Code", base::to_string(error.code));
  if (!error.fix.empty()) {
    response.headers.add("X-Dstack-Fix", error.fix);
  }
  return response;
}

base::Result<> decode(const net::Request& request, bool json, google::protobuf::Message& message) {
  if (message.GetDescriptor()->field_count() == 0) {
    return {};
  }
  if (request.method == "GET") {
    return from_query(request.query, message);
  }
  if (json) {
    return from_json(request.body, message);
  }
  if (!message.ParseFromString(request.body)) {
    return base::fail(Code::parse, "the body is not a protobuf message of this method");
  }
  return {};
}

}  // namespace

Service::Service(std::string mount, std::vector<std::string> prefixes)
    : m_mount(std::move(mount)), m_prefixes(std::move(prefixes)) {
  while (m_mount.ends_with('/')) {
    m_mount.pop_back();
  }
}

bool Service::owns(std::string_view path) const {
  return path.size() > m_mount.size() + 1 && path.starts_with(m_mount) && path[m_mount.size()] == '/';
}

net::Response Service::handle(const net::Request& request) const {
  const bool json = wants_json(request);
  std::string_view name = request.path;
  name.remove_prefix(owns(name) ? m_mount.size() + 1 : 0);
  const auto strip = [&](const std::string& prefix) {
    if (prefix.empty() || !name.starts_with(prefix)) {
      return false;
    }
    name.remove_prefix(prefix.size());
    return true;
  };
  while (std::ranges::any_of(m_prefixes, strip)) {
  }
  if (request.method != "GET" && request.method != "POST") {
    return reply_error(json, {Code::invalid_argument, "only GET and POST are understood here", {}, {}});
  }
  const auto method = m_methods.find(name);
  if (method == m_methods.end()) {
    return reply_error(
        json, {Code::invalid_argument, base::format("Service not found: {}", name.substr(0, 128)), {}, {}});
  }
  const auto message = method->second.make_request();
  if (auto decoded = decode(request, json, *message); !decoded) {
    return reply_error(json, std::move(decoded.error()).wrap(base::format("bad request for {}", name)));
  }
  const auto result = method->second.handle(Call{request}, *message);
  if (!result) {
    return reply_error(json, result.error());
  }
  return reply(200, json, json ? to_json(**result) : (*result)->SerializeAsString());
}

std::vector<std::string> Service::methods() const {
  std::vector<std::string> out;
  for (const auto& [name, method] : m_methods) {
    out.push_back(name);
  }
  return out;
}

}  // namespace dstack::rpc
