// A prpc service: methods by name over one HTTP mount, JSON and protobuf (spec/host.md section 4.4).
#pragma once

#include <google/protobuf/message.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/http.h"

namespace dstack::rpc {

// Handlers see the HTTP request for the peer's certificate and headers.
struct Call {
  const net::Request& http;
};

class Service {
 public:
  // `mount` is "/prpc", "/api" or ""; `prefixes` ("KMS.", "Teepod.") are stripped from method names,
  // repeatedly.
  explicit Service(std::string mount, std::vector<std::string> prefixes = {});

  // service.on<CreateVmRequest, Id>("CreateVm", [&](const Call&, const CreateVmRequest&) -> base::Result<Id>
  // {...});
  template <class Request, class Response, class Function>
  void on(const std::string& method, Function function) {
    m_methods[method] = Method{[] { return std::make_unique<Request>(); },
                               [function](const Call& call, const google::protobuf::Message& request)
                                   -> base::Result<std::unique_ptr<google::protobuf::Message>> {
                                 base::Result<Response> response =
                                     function(call, static_cast<const Request&>(request));
                                 if (!response) {
                                   return std::unexpected(std::move(response).error());
                                 }
                                 return std::make_unique<Response>(std::move(*response));
                               }};
  }

  // Does `path` lie under the mount?
  bool owns(std::string_view path) const;
  // Success is 200; every error is 400 with {"error": "..."} or PrpcError, as the caller speaks. The error's
  // code and fix go into the headers X-Dstack-Code and X-Dstack-Fix, so that our own client can show them.
  net::Response handle(const net::Request& request) const;
  std::vector<std::string> methods() const;

 private:
  struct Method {
    std::function<std::unique_ptr<google::protobuf::Message>()> make_request;
    std::function<base::Result<std::unique_ptr<google::protobuf::Message>>(const Call&,
                                                                           const google::protobuf::Message&)>
        handle;
  };
  std::string m_mount;
  std::vector<std::string> m_prefixes;
  std::map<std::string, Method, std::less<>> m_methods;
};

}  // namespace dstack::rpc
