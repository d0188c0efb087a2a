// Throw-away certificates for TLS tests.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "base/bytes.h"

namespace dstack::net::test {

struct Pair {
  std::shared_ptr<X509> certificate;
  std::shared_ptr<EVP_PKEY> key;
  std::string certificate_pem;
  std::string key_pem;
};

inline std::string to_pem(const auto& write) {
  std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
  write(bio.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<std::size_t>(size));
}

// Signed by `issuer`, or by itself. `alt_names` in OpenSSL's form: "DNS:a,IP:127.0.0.1".
inline Pair make_certificate(const std::string& name, const Pair* issuer, const std::string& alt_names,
                             bool is_ca = false, long valid_seconds = 3600) {
  Pair out;
  out.key.reset(EVP_EC_gen("P-256"), EVP_PKEY_free);
  out.certificate.reset(X509_new(), X509_free);
  X509* x = out.certificate.get();
  static long serial = 1;
  X509_set_version(x, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(x), -7200);
  X509_gmtime_adj(X509_getm_notAfter(x), valid_seconds);
  X509_set_pubkey(x, out.key.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509* by = issuer == nullptr ? x : issuer->certificate.get();
  X509_set_issuer_name(x, X509_get_subject_name(by));
  X509V3_CTX context;
  X509V3_set_ctx(&context, by, x, nullptr, nullptr, 0);
  const auto extend = [&](int nid, const std::string& value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
    X509_add_ext(x, extension, -1);
    X509_EXTENSION_free(extension);
  };
  if (is_ca) {
    extend(NID_basic_constraints, "critical,CA:TRUE");
  }
  if (!alt_names.empty()) {
    extend(NID_subject_alt_name, alt_names);
  }
  X509_sign(x, issuer == nullptr ? out.key.get() : issuer->key.get(), EVP_sha256());
  out.certificate_pem = to_pem([&](BIO* bio) { PEM_write_bio_X509(bio, x); });
  out.key_pem = to_pem(
      [&](BIO* bio) { PEM_write_bio_PrivateKey(bio, out.key.get(), nullptr, nullptr, 0, nullptr, nullptr); });
  return out;
}

inline base::Bytes der(const Pair& pair) {
  unsigned char* data = nullptr;
  const int size = i2d_X509(pair.certificate.get(), &data);
  base::Bytes out(data, data + size);
  OPENSSL_free(data);
  return out;
}

}  // namespace dstack::net::test
