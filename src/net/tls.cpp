#include "net/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <vector>

#include "base/format.h"

namespace dstack::net {

namespace {

using base::Code;
using base::Error;
using base::fail;

template <auto k_free>
struct Free {
  template <class T>
  void operator()(T* object) const {
    k_free(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

std::string openssl_reason() {
  const auto code = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "no reason given" : reason;
}

std::unexpected<Error> bad(std::string message, std::string fix = {}) {
  return fail(Error{Code::tls, std::move(message), openssl_reason(), std::move(fix)});
}

// A key file never asks for a passphrase on the terminal.
int no_passphrase(char*, int, int, void*) {
  return -1;
}

base::Result<std::vector<Certificate>> read_certificates(const std::string& pem, std::string_view what) {
  const Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<Certificate> out;
  while (true) {
    Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, no_passphrase, nullptr));
    if (!certificate) {
      break;
    }
    out.push_back(std::move(certificate));
  }
  if (out.empty() || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return bad(base::format("the {} is not a list of PEM certificates", what));
  }
  ERR_clear_error();
  return out;
}

base::Result<> use_certificate(SSL_CTX* context, const std::string& chain_pem, const std::string& key_pem) {
  DS_TRY(auto chain, read_certificates(chain_pem, "TLS certificate chain"));
  const Bio bio(BIO_new_mem_buf(key_pem.data(), static_cast<int>(key_pem.size())));
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
  if (!key) {
    return bad("the TLS private key is not a PEM key without passphrase");
  }
  if (SSL_CTX_use_certificate(context, chain.front().get()) != 1) {
    return bad("the TLS certificate cannot be used");
  }
  for (std::size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1) {
      return bad("the TLS certificate chain cannot be used");
    }
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1) {
    return bad("the TLS private key does not belong to the certificate");
  }
  return {};
}

base::Result<> trust(SSL_CTX* context, const std::string& ca_pem, bool announce) {
  DS_TRY(auto authorities, read_certificates(ca_pem, "list of trusted certificates"));
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  // An anchor is trusted because it is configured, also when it is not self-signed.
  X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
  for (const auto& authority : authorities) {
    if (X509_STORE_add_cert(store, authority.get()) != 1 ||
        (announce && SSL_CTX_add_client_CA(context, authority.get()) != 1)) {
      return bad("a trusted certificate cannot be used");
    }
  }
  return {};
}

std::shared_ptr<SSL_CTX> new_context(const SSL_METHOD* method) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(method), SSL_CTX_free);
  if (context) {
    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
    SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(context.get(), 0);
    SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  }
  return context;
}

bool is_ip(const std::string& host) {
  unsigned char buffer[sizeof(in6_addr)];
  return ::inet_pton(AF_INET, host.c_str(), buffer) == 1 || ::inet_pton(AF_INET6, host.c_str(), buffer) == 1;
}

base::Bytes to_der(X509* certificate) {
  unsigned char* der = nullptr;
  const int length = i2d_X509(certificate, &der);
  if (length <= 0) {
    return {};
  }
  base::Bytes out(der, der + length);
  OPENSSL_free(der);
  return out;
}

}  // namespace

base::Result<TlsContext> TlsContext::server(const ServerTls& settings) {
  ERR_clear_error();
  TlsContext out;
  out.m_server = true;
  out.m_context = new_context(TLS_server_method());
  if (!out.m_context) {
    return bad("cannot set up TLS");
  }
  DS_CHECK(use_certificate(out.m_context.get(), settings.certificate_chain_pem, settings.private_key_pem));
  if (!settings.client_ca_pem.empty()) {
    DS_CHECK(trust(out.m_context.get(), settings.client_ca_pem, /*announce=*/true));
    SSL_CTX_set_verify(out.m_context.get(), SSL_VERIFY_PEER, nullptr);
  }
  return out;
}

base::Result<TlsContext> TlsContext::client(const ClientTls& settings) {
  ERR_clear_error();
  TlsContext out;
  out.m_insecure = settings.insecure;
  out.m_verify_leaf = settings.verify_leaf;
  out.m_context = new_context(TLS_client_method());
  if (!out.m_context) {
    return bad("cannot set up TLS");
  }
  if (!settings.insecure) {
    if (settings.ca_pem.empty()) {
      return fail(Code::tls, "no certificate authority to check the server against",
                  "give the CA certificate that the server's certificate was issued by");
    }
    DS_CHECK(trust(out.m_context.get(), settings.ca_pem, /*announce=*/false));
  }
  if (!settings.certificate_chain_pem.empty()) {
    DS_CHECK(use_certificate(out.m_context.get(), settings.certificate_chain_pem, settings.private_key_pem));
  }
  SSL_CTX_set_verify(out.m_context.get(), SSL_VERIFY_PEER, nullptr);
  return out;
}

TlsSession::TlsSession(TlsContext context, const std::string& host)
    : m_context(std::move(context)), m_ssl(SSL_new(m_context.m_context.get()), SSL_free) {
  SSL* ssl = m_ssl.get();
  if (ssl == nullptr) {
    m_error = Error{Code::tls, "cannot set up TLS", openssl_reason(), {}};
    return;
  }
  SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  if (m_context.m_server) {
    SSL_set_accept_state(ssl);
    return;
  }
  SSL_set_connect_state(ssl);
  SSL_set_app_data(ssl, this);
  // The whole decision is made inside the handshake, so that a server that fails it never sees our
  // certificate.
  SSL_CTX_set_cert_verify_callback(m_context.m_context.get(), &TlsSession::verify, nullptr);
  X509_VERIFY_PARAM* parameters = SSL_get0_param(ssl);
  if (is_ip(host)) {
    X509_VERIFY_PARAM_set1_ip_asc(parameters, host.c_str());
  } else {
    X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    X509_VERIFY_PARAM_set1_host(parameters, host.data(), host.size());
    SSL_set_tlsext_host_name(ssl, host.c_str());
  }
}

TlsSession::~TlsSession() = default;

int TlsSession::verify(X509_STORE_CTX* store, void*) {
  auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* self = static_cast<TlsSession*>(SSL_get_app_data(ssl));
  if (!self->m_context.m_insecure && X509_verify_cert(store) != 1) {
    self->m_error = Error{Code::tls,
                          "the server's certificate is not acceptable",
                          X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)),
                          {}};
    return 0;
  }
  if (self->m_context.m_verify_leaf) {
    X509* leaf = X509_STORE_CTX_get0_cert(store);
    const auto verdict = leaf == nullptr ? fail(Code::tls, "the server presented no certificate")
                                         : self->m_context.m_verify_leaf(to_der(leaf));
    if (!verdict) {
      self->m_error = Error{Code::tls, "the server's certificate is not acceptable", verdict.error().what(),
                            verdict.error().fix};
      X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
      return 0;
    }
  }
  X509_STORE_CTX_set_error(store, X509_V_OK);
  return 1;
}

TlsSession::Status TlsSession::start(std::string& out) {
  return advance(nullptr, out);
}

TlsSession::Status TlsSession::receive(std::string_view wire, std::string& plain, std::string& out) {
  if (m_ssl == nullptr) {
    return Status::failed;
  }
  BIO_write(SSL_get_rbio(m_ssl.get()), wire.data(), static_cast<int>(wire.size()));
  return advance(&plain, out);
}

TlsSession::Status TlsSession::advance(std::string* plain, std::string& out) {
  if (m_ssl == nullptr) {
    return Status::failed;
  }
  ERR_clear_error();
  if (!m_established) {
    const int result = SSL_do_handshake(m_ssl.get());
    if (result != 1) {
      return SSL_get_error(m_ssl.get(), result) == SSL_ERROR_WANT_READ ? (drain(out), Status::ok)
                                                                       : fail_with_openssl(result, out);
    }
    m_established = true;
  }
  char buffer[16 * 1024];
  while (plain != nullptr) {
    const int count = SSL_read(m_ssl.get(), buffer, sizeof buffer);
    if (count > 0) {
      plain->append(buffer, static_cast<std::size_t>(count));
      continue;
    }
    const int error = SSL_get_error(m_ssl.get(), count);
    if (error == SSL_ERROR_ZERO_RETURN) {
      drain(out);
      return Status::closed;
    }
    if (error != SSL_ERROR_WANT_READ) {
      return fail_with_openssl(count, out);
    }
    break;
  }
  drain(out);
  return Status::ok;
}

TlsSession::Status TlsSession::send(std::string_view plain, std::string& out) {
  ERR_clear_error();
  while (!plain.empty()) {
    const int count =
        SSL_write(m_ssl.get(), plain.data(), static_cast<int>(std::min<std::size_t>(plain.size(), 1 << 20)));
    if (count <= 0) {
      return fail_with_openssl(count, out);
    }
    plain.remove_prefix(static_cast<std::size_t>(count));
  }
  drain(out);
  return Status::ok;
}

void TlsSession::close(std::string& out) {
  if (m_ssl != nullptr && m_established) {
    ERR_clear_error();
    SSL_shutdown(m_ssl.get());
    drain(out);
    ERR_clear_error();
  }
}

TlsSession::Status TlsSession::fail_with_openssl(int, std::string& out) {
  drain(out);
  const auto reason = openssl_reason();
  if (m_error.message.empty()) {
    m_error =
        Error{Code::tls, m_established ? "the other side ended TLS" : "the TLS handshake failed", reason, {}};
  }
  return Status::failed;
}

void TlsSession::drain(std::string& out) {
  char buffer[16 * 1024];
  int count = 0;
  while ((count = BIO_read(SSL_get_wbio(m_ssl.get()), buffer, sizeof buffer)) > 0) {
    out.append(buffer, static_cast<std::size_t>(count));
  }
}

base::Bytes TlsSession::peer_certificate_der() const {
  const Certificate certificate(SSL_get1_peer_certificate(m_ssl.get()));
  return certificate ? to_der(certificate.get()) : base::Bytes{};
}

}  // namespace dstack::net
