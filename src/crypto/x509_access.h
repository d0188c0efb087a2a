// The OpenSSL objects inside the key and certificate classes. Only for the .cpp files of this directory.
#pragma once

#include "crypto/openssl.h"
#include "crypto/p256.h"
#include "crypto/x509.h"

namespace dstack::crypto {

class X509Access {
 public:
  static EVP_PKEY* get(const P256PublicKey& key) { return static_cast<EVP_PKEY*>(key.m_key.get()); }
  static EVP_PKEY* get(const P256Key& key) { return get(key.m_public); }
  static X509* get(const Certificate& certificate) { return static_cast<X509*>(certificate.m_x509.get()); }
  static Certificate wrap(X509Ptr x509, base::Bytes der) {
    return Certificate(std::shared_ptr<void>(x509.release(), [](X509* p) { X509_free(p); }), std::move(der));
  }
};

}  // namespace dstack::crypto
