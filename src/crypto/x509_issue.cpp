#include <arpa/inet.h>

#include <algorithm>
#include <ctime>

#include "base/format.h"
#include "crypto/hash.h"
#include "crypto/x509.h"
#include "crypto/x509_access.h"

namespace dstack::crypto {
namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;

constexpr std::int64_t k_default_not_before = 157766400;  // 1975-01-01T00:00:00Z
constexpr std::int64_t k_default_days = 3650;
constexpr std::int64_t k_latest = 253402300799;  // 9999-12-31T23:59:59Z
constexpr std::size_t k_id_size = 20;            // serial numbers and key identifiers

using BitsPtr = std::unique_ptr<ASN1_BIT_STRING, OsslFree<ASN1_BIT_STRING_free>>;
using UsagePtr = std::unique_ptr<EXTENDED_KEY_USAGE, OsslFree<EXTENDED_KEY_USAGE_free>>;
using BasicPtr = std::unique_ptr<BASIC_CONSTRAINTS, OsslFree<BASIC_CONSTRAINTS_free>>;
using TimePtr = std::unique_ptr<ASN1_TIME, OsslFree<ASN1_TIME_free>>;
using NamePtr = std::unique_ptr<GENERAL_NAME, OsslFree<GENERAL_NAME_free>>;

std::unexpected<base::Error> fail_build(std::string_view what) {
  return fail_openssl(Code::bad_certificate, format("a certificate cannot be made: {}", what));
}

bool is_clean(std::string_view text) {
  return std::ranges::none_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

Result<> set_subject(X509* x509, const CertificateProfile& profile) {
  X509_NAME* name = X509_get_subject_name(x509);
  const auto add = [&](int nid, const std::string& value) {
    return X509_NAME_add_entry_by_NID(name, nid, MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(value.data()),
                                      static_cast<int>(value.size()), -1, 0) == 1;
  };
  if (!is_clean(profile.organization) || !is_clean(profile.common_name)) {
    return fail(Code::bad_certificate, "a certificate's subject has control characters");
  }
  if (!profile.organization.empty() && !add(NID_organizationName, profile.organization)) {
    return fail_build(format("organization '{}'", profile.organization));
  }
  if (!profile.common_name.empty() && !add(NID_commonName, profile.common_name)) {
    return fail_build(format("common name '{}'", profile.common_name));
  }
  return {};
}

Result<> set_validity(X509* x509, const CertificateProfile& profile) {
  const std::int64_t begin = profile.not_before.value_or(k_default_not_before);
  const std::int64_t end = profile.not_after.value_or(std::time(nullptr) + k_default_days * 86400);
  if (begin < 0 || end <= begin || end > k_latest) {
    return fail(Code::bad_certificate, format("a certificate cannot be valid from {} to {}", begin, end),
                "choose a not_after that lies behind not_before and before the year 10000");
  }
  TimePtr first(ASN1_TIME_set(nullptr, begin));
  TimePtr last(ASN1_TIME_set(nullptr, end));
  if (first == nullptr || last == nullptr || X509_set1_notBefore(x509, first.get()) != 1 ||
      X509_set1_notAfter(x509, last.get()) != 1) {
    return fail_build("validity");
  }
  return {};
}

Result<NamePtr> alt_name(const std::string& text) {
  NamePtr name(GENERAL_NAME_new());
  in6_addr scratch{};
  if (inet_pton(AF_INET, text.c_str(), &scratch) == 1 || inet_pton(AF_INET6, text.c_str(), &scratch) == 1) {
    ASN1_OCTET_STRING* ip = a2i_IPADDRESS(text.c_str());
    if (name == nullptr || ip == nullptr) {
      ASN1_OCTET_STRING_free(ip);
      return fail_build(format("address '{}'", text));
    }
    GENERAL_NAME_set0_value(name.get(), GEN_IPADD, ip);
    return name;
  }
  const bool dns = !text.empty() && text.size() <= 253 && std::ranges::all_of(text, [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '-' || c == '_' || c == '*';
  });
  if (!dns) {
    return fail(Code::bad_certificate, format("'{}' is neither an IP address nor a DNS name", text),
                "use names of letters, digits, '-', '_' and '.'");
  }
  ASN1_IA5STRING* value = ASN1_IA5STRING_new();
  if (name == nullptr || value == nullptr ||
      ASN1_STRING_set(value, text.data(), static_cast<int>(text.size())) != 1) {
    ASN1_IA5STRING_free(value);
    return fail_build(format("name '{}'", text));
  }
  GENERAL_NAME_set0_value(name.get(), GEN_DNS, value);
  return name;
}

Result<> set_alt_names(X509* x509, const std::vector<std::string>& names) {
  if (names.empty()) {
    return {};
  }
  NamesPtr stack(sk_GENERAL_NAME_new_null());
  for (const auto& text : names) {
    DS_TRY(auto name, alt_name(text));
    if (stack == nullptr || sk_GENERAL_NAME_push(stack.get(), name.get()) <= 0) {
      return fail_build("alternative names");
    }
    (void)name.release();
  }
  if (X509_add1_ext_i2d(x509, NID_subject_alt_name, stack.get(), 0, X509V3_ADD_DEFAULT) != 1) {
    return fail_build("alternative names");
  }
  return {};
}

Result<> set_usages(X509* x509, const CertificateProfile& profile) {
  constexpr int k_digital_signature = 0;
  constexpr int k_key_cert_sign = 5;
  constexpr int k_crl_sign = 6;
  BitsPtr bits(ASN1_BIT_STRING_new());
  bool ok = bits != nullptr && ASN1_BIT_STRING_set_bit(bits.get(), k_digital_signature, 1) == 1;
  if (profile.ca_path_length) {
    ok = ok && ASN1_BIT_STRING_set_bit(bits.get(), k_key_cert_sign, 1) == 1 &&
         ASN1_BIT_STRING_set_bit(bits.get(), k_crl_sign, 1) == 1;
  }
  if (!ok || X509_add1_ext_i2d(x509, NID_key_usage, bits.get(), 1, X509V3_ADD_DEFAULT) != 1) {
    return fail_build("key usage");
  }
  if (!profile.server_auth && !profile.client_auth) {
    return {};
  }
  UsagePtr usages(sk_ASN1_OBJECT_new_null());
  ok = usages != nullptr;
  if (profile.server_auth) {
    ok = ok && sk_ASN1_OBJECT_push(usages.get(), OBJ_nid2obj(NID_server_auth)) > 0;
  }
  if (profile.client_auth) {
    ok = ok && sk_ASN1_OBJECT_push(usages.get(), OBJ_nid2obj(NID_client_auth)) > 0;
  }
  if (!ok || X509_add1_ext_i2d(x509, NID_ext_key_usage, usages.get(), 0, X509V3_ADD_DEFAULT) != 1) {
    return fail_build("extended key usage");
  }
  return {};
}

Result<> set_ca(X509* x509, unsigned path_length, const P256PublicKey& subject) {
  BasicPtr basic(BASIC_CONSTRAINTS_new());
  OctetPtr id(ASN1_OCTET_STRING_new());
  const Hash256 digest = sha256(subject.spki());
  if (basic == nullptr || id == nullptr) {
    return fail_build("CA extensions");
  }
  basic->ca = 0xff;  // DER's TRUE; OpenSSL writes the value as it stands
  basic->pathlen = ASN1_INTEGER_new();
  if (basic->pathlen == nullptr || ASN1_INTEGER_set(basic->pathlen, static_cast<long>(path_length)) != 1 ||
      X509_add1_ext_i2d(x509, NID_basic_constraints, basic.get(), 1, X509V3_ADD_DEFAULT) != 1 ||
      ASN1_OCTET_STRING_set(id.get(), digest.data(), k_id_size) != 1 ||
      X509_add1_ext_i2d(x509, NID_subject_key_identifier, id.get(), 0, X509V3_ADD_DEFAULT) != 1) {
    return fail_build("CA extensions");
  }
  return {};
}

Result<> add_raw_extension(X509* x509, const std::string& oid, ByteView content) {
  ObjectPtr object(OBJ_txt2obj(oid.c_str(), 1));
  OctetPtr data(ASN1_OCTET_STRING_new());
  if (object == nullptr || data == nullptr ||
      ASN1_OCTET_STRING_set(data.get(), content.data(), static_cast<int>(content.size())) != 1) {
    return fail_build(format("extension {}", oid));
  }
  X509ExtPtr extension(X509_EXTENSION_create_by_OBJ(nullptr, object.get(), 0, data.get()));
  if (extension == nullptr || X509_add_ext(x509, extension.get(), -1) != 1) {
    return fail_build(format("extension {}", oid));
  }
  return {};
}

Result<> add_nested_extension(X509* x509, const NestedExtension& extension) {
  OctetPtr inner(ASN1_OCTET_STRING_new());
  if (inner == nullptr || ASN1_OCTET_STRING_set(inner.get(), extension.payload.data(),
                                                static_cast<int>(extension.payload.size())) != 1) {
    return fail_build(format("extension {}", extension.oid));
  }
  const int size = i2d_ASN1_OCTET_STRING(inner.get(), nullptr);
  Bytes der(static_cast<std::size_t>(std::max(0, size)));
  unsigned char* at = der.data();
  i2d_ASN1_OCTET_STRING(inner.get(), &at);
  return add_raw_extension(x509, extension.oid, der);
}

Result<> set_serial(X509* x509, const P256PublicKey& subject) {
  Hash256 digest = sha256(subject.point());
  digest[0] &= 0x7f;
  BnPtr number(BN_bin2bn(digest.data(), k_id_size, nullptr));
  if (number == nullptr || BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(x509)) == nullptr) {
    return fail_build("serial number");
  }
  return {};
}

// `issuer` null = self-signed.
Result<Certificate> make(const CertificateProfile& profile, const P256PublicKey& subject,
                         const P256Key& signer, const Certificate* issuer) {
  X509Ptr x509(X509_new());
  if (x509 == nullptr || X509_set_version(x509.get(), X509_VERSION_3) != 1 ||
      X509_set_pubkey(x509.get(), X509Access::get(subject)) != 1) {
    return fail_build("version and key");
  }
  DS_CHECK(set_serial(x509.get(), subject));
  DS_CHECK(set_subject(x509.get(), profile));
  X509_NAME* issuer_name = X509_get_subject_name(issuer != nullptr ? X509Access::get(*issuer) : x509.get());
  if (X509_set_issuer_name(x509.get(), issuer_name) != 1) {
    return fail_build("issuer");
  }
  DS_CHECK(set_validity(x509.get(), profile));
  DS_CHECK(set_alt_names(x509.get(), profile.alt_names));
  DS_CHECK(set_usages(x509.get(), profile));
  if (profile.ca_path_length) {
    DS_CHECK(set_ca(x509.get(), *profile.ca_path_length, subject));
  }
  for (const auto& extension : profile.extensions) {
    DS_CHECK(add_nested_extension(x509.get(), extension));
  }
  for (const auto& extension : profile.raw_extensions) {
    DS_CHECK(add_raw_extension(x509.get(), extension.oid, extension.payload));
  }
  if (X509_sign(x509.get(), X509Access::get(signer), EVP_sha256()) <= 0) {
    return fail_build("signature");
  }
  const int size = i2d_X509(x509.get(), nullptr);
  if (size <= 0) {
    return fail_build("encoding");
  }
  Bytes der(static_cast<std::size_t>(size));
  unsigned char* at = der.data();
  i2d_X509(x509.get(), &at);
  // Read back, so that what is handed out is what a reader will see.
  return Certificate::from_der(der);
}

}  // namespace

Result<Certificate> self_sign(const CertificateProfile& profile, const P256Key& key) {
  return make(profile, key.public_key(), key, nullptr);
}

Result<Certificate> issue(const CertificateProfile& profile, const P256PublicKey& subject,
                          const CertificateAuthority& issuer) {
  return make(profile, subject, issuer.key, &issuer.certificate);
}

}  // namespace dstack::crypto
