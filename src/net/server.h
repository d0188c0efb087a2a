// HTTP/1.1 server over TCP, TLS and unix sockets.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "net/http.h"

namespace dstack::net {

struct ServerTls {
  std::string certificate_chain_pem;
  std::string private_key_pem;
  // Clients may present a certificate; one that does not chain to these CAs is refused. Empty = never asked
  // for.
  std::string client_ca_pem;
};

struct ServerOptions {
  std::size_t max_body = 10 * 1024 * 1024;
  std::size_t max_header = 16 * 1024;
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};
  std::chrono::milliseconds idle_timeout{60'000};
  std::size_t max_connections = 512;  // more get 503, or:
  // A newcomer takes the place of the connection that has been open longest, once that is at least so long.
  // For services that answer at once, whose clients ask once. 0: never.
  std::chrono::milliseconds give_way_after{0};
  // Threads that run handlers. 0 runs them on the I/O thread: for handlers that never block.
  unsigned workers = 8;
  std::string server_header;  // value of X-App-Version; empty = none
  // Sees a request whose body is still to come, on the I/O thread. What it returns is the answer, and the
  // connection ends: nothing of the body is kept. Requests that arrive whole reach the handler only.
  std::function<std::optional<Response>(const Request& head)> admit;
};

// Runs on a worker thread (or the I/O thread, see ServerOptions::workers). Must not throw.
using Handler = std::function<Response(const Request&)>;

class Server {
 public:
  Server(Handler handler, ServerOptions options = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Each listen_*() binds and listens at once and may be called several times before run(). Errors name the
  // address: Code::address_in_use with the fix, or Code::net. Port 0 picks a free one; the result is the
  // bound port. `early`: the address need not be there yet.
  base::Result<std::uint16_t> listen_tcp(const std::string& ip, std::uint16_t port,
                                         std::optional<ServerTls> tls = std::nullopt, bool early = false);
  // A stale socket file is replaced; a live one is Code::address_in_use; another kind of file is an error.
  base::Result<> listen_unix(const std::string& path, unsigned mode = 0600);

  // Takes over an inherited listening stream socket (systemd's socket activation). Owns `fd` also after an
  // error.
  base::Result<> listen_fd(int fd, std::optional<ServerTls> tls = std::nullopt);

  // Serves until stop(); requests in flight are answered, for at most `grace`.
  base::Result<> run(std::chrono::milliseconds grace = std::chrono::seconds(5));
  // Thread-safe and callable before run().
  void stop();
  // run() on a thread of its own, until stop() or destruction. For tests and for programs with several
  // servers.
  void start();
  // Blocks SIGTERM and SIGINT for the process and calls stop() when one arrives.
  void stop_on_signals();

 private:
  struct Impl;
  std::unique_ptr<Impl> m_impl;
};

}  // namespace dstack::net
