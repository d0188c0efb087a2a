// Typed prpc calls over a net::Client, JSON on the wire.
#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "base/result.h"
#include "net/client.h"

namespace dstack::rpc {

class Client {
 public:
  // `mount` as in Service. `bearer` is sent as "Authorization: Bearer ..." unless empty.
  Client(net::Client http, std::string mount, std::string bearer = {});

  // Code::unauthorized for 401; Code::rpc with the server's own error text for the rest; connection errors as
  // net::Client gives them.
  base::Result<> call(const std::string& method, const google::protobuf::Message& request,
                      google::protobuf::Message& response) const;

  template <class Response>
  base::Result<Response> call(const std::string& method, const google::protobuf::Message& request) const {
    Response response;
    DS_CHECK(call(method, request, response));
    return response;
  }

  const net::Client& http() const { return m_http; }
  const std::string& bearer() const { return m_bearer; }

 private:
  net::Client m_http;
  std::string m_mount;
  std::string m_bearer;
};

}  // namespace dstack::rpc
