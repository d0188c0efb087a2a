#include "crypto/x509.h"

#include <arpa/inet.h>

#include <ctime>

#include "base/format.h"
#include "crypto/x509_access.h"

namespace dstack::crypto {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;

constexpr std::size_t k_max_certificate = 1024 * 1024;
constexpr std::string_view k_begin = "-----BEGIN CERTIFICATE-----";
constexpr std::string_view k_end = "-----END CERTIFICATE-----";

using StorePtr = std::unique_ptr<X509_STORE, OsslFree<X509_STORE_free>>;
using StoreCtxPtr = std::unique_ptr<X509_STORE_CTX, OsslFree<X509_STORE_CTX_free>>;
// The stack does not own its certificates.
using StackPtr = std::unique_ptr<STACK_OF(X509), decltype([](STACK_OF(X509) * s) { sk_X509_free(s); })>;

std::int64_t to_unix(const ASN1_TIME* time) {
  std::tm parts{};
  if (time == nullptr || ASN1_TIME_to_tm(time, &parts) != 1) {
    return 0;
  }
  return timegm(&parts);
}

ByteView octets(const ASN1_STRING* value) {
  return {ASN1_STRING_get0_data(value), static_cast<std::size_t>(ASN1_STRING_length(value))};
}

}  // namespace

Result<Certificate> Certificate::from_der(ByteView der) {
  if (der.size() > k_max_certificate) {
    return fail(Code::bad_certificate, "a certificate is larger than 1 MiB");
  }
  const unsigned char* at = der.data();
  X509Ptr x509(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  if (x509 == nullptr) {
    return fail_openssl(Code::bad_certificate, "not a DER certificate");
  }
  if (at != der.data() + der.size()) {
    return fail(Code::bad_certificate, "a certificate has bytes behind its end");
  }
  return X509Access::wrap(std::move(x509), base::to_bytes(der));
}

Result<Certificate> Certificate::from_pem(std::string_view pem) {
  DS_TRY(auto chain, read_pem_chain(pem));
  return std::move(chain.front());
}

std::string Certificate::pem() const {
  const std::string coded = base::to_base64(m_der);
  std::string out(k_begin);
  for (std::size_t at = 0; at < coded.size(); at += 64) {
    out += '\n';
    out += coded.substr(at, 64);
  }
  out += '\n';
  out += k_end;
  out += '\n';
  return out;
}

Bytes Certificate::spki() const {
  X509_PUBKEY* key = X509_get_X509_PUBKEY(X509Access::get(*this));
  const int size = i2d_X509_PUBKEY(key, nullptr);
  Bytes out(static_cast<std::size_t>(std::max(0, size)));
  unsigned char* at = out.data();
  i2d_X509_PUBKEY(key, &at);
  return out;
}

Result<P256PublicKey> Certificate::public_key() const {
  return P256PublicKey::from_spki(spki());
}

std::string Certificate::common_name() const {
  const X509_NAME* name = X509_get_subject_name(X509Access::get(*this));
  const int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (at < 0) {
    return {};
  }
  unsigned char* utf8 = nullptr;
  const int size = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
  std::string out;
  if (size >= 0) {
    out.assign(reinterpret_cast<char*>(utf8), static_cast<std::size_t>(size));
    OPENSSL_free(utf8);
  }
  return out;
}

bool Certificate::is_ca() const {
  return X509_check_ca(X509Access::get(*this)) == 1;
}

std::int64_t Certificate::not_before() const {
  return to_unix(X509_get0_notBefore(X509Access::get(*this)));
}
std::int64_t Certificate::not_after() const {
  return to_unix(X509_get0_notAfter(X509Access::get(*this)));
}

std::vector<std::string> Certificate::alt_names() const {
  std::vector<std::string> out;
  NamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(X509Access::get(*this), NID_subject_alt_name, nullptr, nullptr)));
  ERR_clear_error();
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const auto* value = static_cast<const ASN1_STRING*>(
        GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type));
    if (type == GEN_DNS) {
      out.emplace_back(base::as_text(octets(value)));
    } else if (type == GEN_IPADD) {
      const ByteView ip = octets(value);
      char text[INET6_ADDRSTRLEN] = {};
      if ((ip.size() == 4 && inet_ntop(AF_INET, ip.data(), text, sizeof text) != nullptr) ||
          (ip.size() == 16 && inet_ntop(AF_INET6, ip.data(), text, sizeof text) != nullptr)) {
        out.emplace_back(text);
      }
    }
  }
  return out;
}

Result<std::optional<Bytes>> Certificate::extension(const std::string& oid) const {
  ObjectPtr object(OBJ_txt2obj(oid.c_str(), 1));
  if (object == nullptr) {
    return fail_openssl(Code::internal, format("not an object identifier: {}", oid));
  }
  X509* x509 = X509Access::get(*this);
  const int first = X509_get_ext_by_OBJ(x509, object.get(), -1);
  if (first < 0) {
    return std::nullopt;
  }
  if (X509_get_ext_by_OBJ(x509, object.get(), first) >= 0) {
    return fail(Code::bad_certificate, format("a certificate has extension {} twice", oid));
  }
  return base::to_bytes(octets(X509_EXTENSION_get_data(X509_get_ext(x509, first))));
}

Result<std::optional<Bytes>> Certificate::nested_extension(const std::string& oid) const {
  DS_TRY(auto content, extension(oid));
  if (!content) {
    return std::nullopt;
  }
  const unsigned char* at = content->data();
  OctetPtr inner(d2i_ASN1_OCTET_STRING(nullptr, &at, static_cast<long>(content->size())));
  if (inner == nullptr || at != content->data() + content->size()) {
    return fail_openssl(Code::bad_certificate,
                        format("extension {} of a certificate is not one OCTET STRING", oid));
  }
  return base::to_bytes(octets(inner.get()));
}

Result<CertificateAuthority> make_ca(P256Key key, Certificate certificate) {
  if (certificate.spki() != key.spki()) {
    return fail(Code::bad_certificate, "a CA's certificate is for another key than its key file",
                "restore the matching pair of certificate and key");
  }
  if (!certificate.is_ca()) {
    return fail(Code::bad_certificate, "a certificate to sign with is not a CA certificate");
  }
  return CertificateAuthority{std::move(key), std::move(certificate)};
}

Result<CertificateAuthority> load_ca(std::string_view key_pem, std::string_view certificate_pem) {
  DS_TRY(auto key, P256Key::from_pkcs8_pem(key_pem));
  DS_TRY(auto certificate, Certificate::from_pem(certificate_pem));
  return make_ca(std::move(key), std::move(certificate));
}

Result<std::vector<Certificate>> read_pem_chain(std::string_view pem, std::size_t limit) {
  while (!pem.empty() && pem.back() == '\0') {
    pem.remove_suffix(1);
  }
  std::vector<Certificate> chain;
  for (pem = base::trim(pem); !pem.empty(); pem = base::trim(pem)) {
    const std::size_t end = pem.find(k_end);
    if (!pem.starts_with(k_begin) || end == std::string_view::npos) {
      return fail(Code::bad_certificate, "not a sequence of PEM certificates");
    }
    if (chain.size() == limit) {
      return fail(Code::too_large, format("more than {} certificates in a PEM text", limit));
    }
    std::string coded;
    for (const char c : pem.substr(k_begin.size(), end - k_begin.size())) {
      if (c != '\n' && c != '\r') {
        coded += c;
      }
    }
    const auto der = base::from_base64(coded);
    if (!der) {
      return fail(Code::bad_certificate, "a PEM certificate is not base64");
    }
    DS_TRY(auto certificate, Certificate::from_der(*der));
    chain.push_back(std::move(certificate));
    pem.remove_prefix(end + k_end.size());
  }
  if (chain.empty()) {
    return fail(Code::bad_certificate, "no certificate in a PEM text");
  }
  return chain;
}

Result<> verify_chain(std::span<const Certificate> chain, std::span<const Certificate> anchors,
                      std::int64_t now) {
  if (chain.empty()) {
    return fail(Code::bad_certificate, "an empty certificate chain");
  }
  StorePtr store(X509_STORE_new());
  StackPtr intermediates(sk_X509_new_null());
  StoreCtxPtr context(X509_STORE_CTX_new());
  bool ready = store != nullptr && intermediates != nullptr && context != nullptr;
  for (const auto& anchor : anchors) {
    ready = ready && X509_STORE_add_cert(store.get(), X509Access::get(anchor)) == 1;
  }
  for (const auto& certificate : chain.subspan(1)) {
    ready = ready && sk_X509_push(intermediates.get(), X509Access::get(certificate)) > 0;
  }
  if (!ready || X509_STORE_CTX_init(context.get(), store.get(), X509Access::get(chain.front()),
                                    intermediates.get()) != 1) {
    return fail_openssl(Code::crypto, "a certificate chain cannot be checked");
  }
  X509_VERIFY_PARAM* param = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(param, static_cast<time_t>(now));
  X509_VERIFY_PARAM_set_depth(param, 8);
  X509_VERIFY_PARAM_set_auth_level(param, 2);
  const int verified = X509_verify_cert(context.get());
  ERR_clear_error();
  if (verified != 1) {
    return std::unexpected(base::Error{Code::bad_certificate,
                                       "a certificate chain does not verify",
                                       X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get())),
                                       {}});
  }
  // OpenSSL still takes issuers of X.509 version 1 and ones that have only a key usage.
  STACK_OF(X509)* built = X509_STORE_CTX_get0_chain(context.get());
  for (int i = 1; i < sk_X509_num(built); ++i) {
    if (X509_check_ca(sk_X509_value(built, i)) != 1) {
      return fail(Code::bad_certificate, "a certificate chain does not verify: an issuer is not a CA");
    }
  }
  return {};
}

}  // namespace dstack::crypto
