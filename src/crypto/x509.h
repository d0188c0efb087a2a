// X.509 certificates: making them from a profile, reading them, checking chains (spec/guest-kms.md section
// 2).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "crypto/p256.h"

namespace dstack::crypto {

// An extension of ours: extnValue holds a DER OCTET STRING that holds the payload (section 2.1). Never
// critical.
struct NestedExtension {
  std::string oid;  // "1.3.6.1.4.1.62397.1.8"
  base::Bytes payload;
};

// Everything about a certificate but its key and issuer.
struct CertificateProfile {
  std::string organization;  // left out when empty
  std::string common_name;
  std::vector<std::string> alt_names;  // an IP literal becomes an iPAddress, the rest dNSName
  bool server_auth = false;
  bool client_auth = false;
  std::optional<unsigned> ca_path_length;  // set = a CA
  std::vector<NestedExtension> extensions;
  std::vector<NestedExtension> raw_extensions;  // payload is extnValue's content itself
  std::optional<std::int64_t> not_before;       // unix seconds; default 1975-01-01
  std::optional<std::int64_t> not_after;        // default now + 3650 days
};

class Certificate {
 public:
  // Exactly one DER certificate, no trailing bytes, at most 1 MiB. Code::bad_certificate.
  static base::Result<Certificate> from_der(base::ByteView der);
  // The first certificate of a PEM text.
  static base::Result<Certificate> from_pem(std::string_view pem);

  const base::Bytes& der() const { return m_der; }
  std::string pem() const;
  base::Bytes spki() const;
  base::Result<P256PublicKey> public_key() const;
  std::string common_name() const;
  bool is_ca() const;
  std::int64_t not_before() const;  // unix seconds
  std::int64_t not_after() const;
  std::vector<std::string> alt_names() const;  // IP addresses in text form, DNS names

  // extnValue's content; nullopt when absent, Code::bad_certificate when there are two.
  base::Result<std::optional<base::Bytes>> extension(const std::string& oid) const;
  // The payload of one of our nested extensions.
  base::Result<std::optional<base::Bytes>> nested_extension(const std::string& oid) const;

 private:
  friend class X509Access;
  Certificate(std::shared_ptr<void> x509, base::Bytes der) : m_x509(std::move(x509)), m_der(std::move(der)) {}
  std::shared_ptr<void> m_x509;  // X509
  base::Bytes m_der;
};

// A CA: its key and certificate. make_ca() refuses a pair that does not belong together.
struct CertificateAuthority {
  P256Key key;
  Certificate certificate;
};
base::Result<CertificateAuthority> make_ca(P256Key key, Certificate certificate);
// From PEM files' contents.
base::Result<CertificateAuthority> load_ca(std::string_view key_pem, std::string_view certificate_pem);

base::Result<Certificate> self_sign(const CertificateProfile& profile, const P256Key& key);
base::Result<Certificate> issue(const CertificateProfile& profile, const P256PublicKey& subject,
                                const CertificateAuthority& issuer);

// All certificates of a PEM text in order; trailing NUL and white space are fine, other junk is not.
// Code::bad_certificate; Code::too_large above `limit` certificates.
base::Result<std::vector<Certificate>> read_pem_chain(std::string_view pem, std::size_t limit = 8);

// Does chain[0], with the rest as intermediates, verify to one of `anchors` at `now` (unix seconds):
// signatures, validity, CA flags and path lengths. Host names and usages are the caller's business.
base::Result<> verify_chain(std::span<const Certificate> chain, std::span<const Certificate> anchors,
                            std::int64_t now);

}  // namespace dstack::crypto
