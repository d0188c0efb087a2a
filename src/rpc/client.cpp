#include "rpc/client.h"

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "rpc/json.h"

namespace dstack::rpc {

namespace {

using base::Code;
using base::Error;
using base::fail;

// A server's text is shown, but not without end.
constexpr std::size_t k_max_error_text = 8 * 1024;

std::string error_text(const net::Response& response) {
  const auto json = nlohmann::json::parse(response.body, nullptr, /*allow_exceptions=*/false);
  std::string text;
  if (json.is_object() && json.contains("error") && json["error"].is_string()) {
    text = json["error"].get<std::string>();
  } else {
    text = base::format("HTTP status {}{}{}", response.status, response.body.empty() ? "" : ": ",
                        response.body.substr(0, 512));
  }
  return base::escape_control(text.substr(0, k_max_error_text), /*keep_newlines=*/true);
}

// The server's code, when it is one of a domain: its network errors are about its own peers, not about this
// connection.
Code remote_code(const net::Response& response) {
  const auto header = response.headers.get("X-Dstack-Code");
  if (!header) {
    return Code::rpc;
  }
  static constexpr Code k_codes[] = {
#define DSTACK_CODE(name, number, text) Code::name,
#include "base/codes.def"
#undef DSTACK_CODE
  };
  for (const Code code : k_codes) {
    const int number = static_cast<int>(code);
    if (base::to_string(code) == *header && number / 100 != 12 && code != Code::unauthorized) {
      return code;
    }
  }
  return Code::rpc;
}

}  // namespace

Client::Client(net::Client http, std::string mount, std::string bearer)
    : m_http(std::move(http)), m_mount(std::move(mount)), m_bearer(std::move(bearer)) {}

base::Result<> Client::call(const std::string& method, const google::protobuf::Message& request,
                            google::protobuf::Message& response) const {
  net::Request http;
  http.method = "POST";
  http.path = m_mount + '/' + method;
  http.query = "json";
  http.headers.add("Content-Type", "application/json");
  if (!m_bearer.empty()) {
    http.headers.add("Authorization", "Bearer " + m_bearer);
  }
  http.body = to_json(request);
  DS_TRY(const net::Response reply, m_http.send(http));
  if (reply.status == 401 || reply.status == 403) {
    return fail(Code::unauthorized, base::format("{} refused the token", m_http.endpoint().to_string()),
                "give the token of this service");
  }
  if (reply.status != 200) {
    return fail(Error{remote_code(reply),
                      error_text(reply),
                      {},
                      base::escape_control(reply.headers.get("X-Dstack-Fix").value_or(""))});
  }
  if (auto read = from_json(reply.body, response); !read) {
    Error error = std::move(read).error();
    error.code = Code::rpc;
    return fail(std::move(error), base::format("{} answered {} with something else than expected",
                                               m_http.endpoint().to_string(), method));
  }
  return {};
}

}  // namespace dstack::rpc
