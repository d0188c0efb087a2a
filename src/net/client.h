// Blocking HTTP/1.1 client over TCP, TLS and unix sockets. One connection per request.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "base/result.h"
#include "net/http.h"
#include "net/proxy.h"

namespace dstack::net {

struct ClientTls {
  // Trust anchors (PEM). Empty together with insecure=false is an error: there is no system trust store here.
  std::string ca_pem;
  // Accept any server certificate. Only for a first contact whose answer is checked by other means.
  bool insecure = false;
  // Own certificate, for mutual TLS.
  std::string certificate_chain_pem;
  std::string private_key_pem;
  // Called with the server's leaf certificate (DER) after the chain check; an error ends the handshake.
  std::function<base::Result<>(base::ByteView leaf_der)> verify_leaf;
};

struct ClientOptions {
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds timeout{30'000};  // whole exchange; for send_streaming: silence between chunks
  std::size_t max_body = 16 * 1024 * 1024;
  ClientTls tls;
  std::optional<Proxy> proxy;  // for tcp and tls endpoints
};

// Takes a body of any size as it comes. An error of either ends the exchange and is its result.
struct BodyReceiver {
  // Sees status and headers before the body. False: the body is collected up to max_body as send() does it.
  std::function<base::Result<bool>(const Response& head)> on_head;
  std::function<base::Result<>(std::string_view part)> on_part;
};

class Client {
 public:
  explicit Client(Endpoint endpoint, ClientOptions options = {});

  // Any status is a success here; failures to connect are Code::connect_failed, TLS ones Code::tls.
  // `request.path` is appended to the endpoint's base_path and percent-encoded.
  base::Result<Response> send(const Request& request) const;
  // Hands the body over chunk by chunk; `on_chunk` returns false to stop early. A status other than 200 is
  // returned with its body and without calling on_chunk.
  base::Result<Response> send_streaming(const Request& request,
                                        const std::function<bool(std::string_view)>& on_chunk) const;

  // As send(), with the body going to `receiver`; `timeout` is then the longest silence. A body that ends
  // before its Content-Length is Code::http.
  base::Result<Response> receive(const Request& request, const BodyReceiver& receiver) const;

  const Endpoint& endpoint() const { return m_endpoint; }

 private:
  Endpoint m_endpoint;
  ClientOptions m_options;
};

}  // namespace dstack::net
