// TLS as a filter over byte strings: no sockets, so that one I/O loop serves plain and encrypted connections.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "net/client.h"
#include "net/server.h"

struct ssl_ctx_st;
struct ssl_st;
struct x509_store_ctx_st;

namespace dstack::net {

// Certificates, keys and trust of one side. Shared by its sessions. TLS 1.2 or newer, no renegotiation, no
// resumption: every connection authenticates anew.
class TlsContext {
 public:
  // Code::tls names the certificate, key or CA text that OpenSSL refuses.
  static base::Result<TlsContext> server(const ServerTls& settings);
  static base::Result<TlsContext> client(const ClientTls& settings);

 private:
  friend class TlsSession;
  std::shared_ptr<ssl_ctx_st> m_context;
  bool m_server = false;
  bool m_insecure = false;
  std::function<base::Result<>(base::ByteView)> m_verify_leaf;
};

class TlsSession {
 public:
  // `host` is the name or IP address that a server's certificate must carry; ignored on the server side.
  TlsSession(TlsContext context, const std::string& host);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  // ok: go on; closed: the peer ended TLS in order; failed: see error(). In every case what was appended to
  // `out` is to be sent.
  enum class Status { ok, closed, failed };
  // Client: makes the first flight.
  Status start(std::string& out);
  // Bytes from the wire; decrypted ones are appended to `plain`.
  Status receive(std::string_view wire, std::string& plain, std::string& out);
  Status send(std::string_view plain, std::string& out);
  void close(std::string& out);

  bool established() const { return m_established; }
  const base::Error& error() const { return m_error; }
  // The leaf that the peer presented and that was verified; empty when none.
  base::Bytes peer_certificate_der() const;

 private:
  static int verify(x509_store_ctx_st* store, void*);
  Status advance(std::string* plain, std::string& out);
  Status fail_with_openssl(int result, std::string& out);
  void drain(std::string& out);

  TlsContext m_context;
  std::unique_ptr<ssl_st, void (*)(ssl_st*)> m_ssl;
  bool m_established = false;
  base::Error m_error;
};

}  // namespace dstack::net
