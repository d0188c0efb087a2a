#include "crypto/x509.h"

#include <gtest/gtest.h>

#include <ctime>

#include "crypto/hash.h"

using namespace dstack;
using base::Bytes;
using base::Code;
using base::from_hex;
using base::to_hex;
using crypto::CertificateProfile;
using crypto::P256Key;

namespace {

const char* const k_oid = "1.3.6.1.4.1.62397.1.8";

std::int64_t now() {
  return std::time(nullptr);
}

crypto::CertificateAuthority new_ca(const std::string& name, unsigned path_length) {
  CertificateProfile profile;
  profile.organization = "Dstack";
  profile.common_name = name;
  profile.ca_path_length = path_length;
  auto key = P256Key::generate().value();
  auto certificate = crypto::self_sign(profile, key).value();
  return crypto::make_ca(std::move(key), std::move(certificate)).value();
}

crypto::CertificateAuthority sub_ca(const crypto::CertificateAuthority& issuer, unsigned path_length) {
  CertificateProfile profile;
  profile.common_name = "sub";
  profile.ca_path_length = path_length;
  auto key = P256Key::generate().value();
  auto certificate = crypto::issue(profile, key.public_key(), issuer).value();
  return crypto::make_ca(std::move(key), std::move(certificate)).value();
}

crypto::Certificate leaf(const crypto::CertificateAuthority& issuer, CertificateProfile profile = {}) {
  profile.common_name = "leaf";
  return crypto::issue(profile, P256Key::generate()->public_key(), issuer).value();
}

bool contains(const Bytes& der, const Bytes& part) {
  return base::as_text(der).find(base::as_text(part)) != std::string_view::npos;
}

}  // namespace

TEST(X509, CaCertificateHasTheProfileOfTheSpec) {
  CertificateProfile profile;
  profile.organization = "Dstack";
  profile.common_name = "Dstack KMS CA";
  profile.ca_path_length = 1;
  const auto key = P256Key::generate().value();
  const auto ca = crypto::self_sign(profile, key).value();
  EXPECT_TRUE(ca.is_ca());
  EXPECT_EQ(ca.spki(), key.spki());
  EXPECT_EQ(ca.common_name(), "Dstack KMS CA");
  EXPECT_EQ(ca.not_before(), 157766400);
  EXPECT_NEAR(static_cast<double>(ca.not_after()), static_cast<double>(now() + 3650LL * 86400), 5.0);
  // O before CN, both UTF8String.
  EXPECT_TRUE(contains(ca.der(), *from_hex("310f300d060355040a0c0644737461636b3116301406035504030c0d")));
  // basicConstraints critical CA:TRUE pathlen 1; keyUsage critical digitalSignature, keyCertSign, cRLSign.
  EXPECT_EQ(to_hex(**ca.extension("2.5.29.19")), "30060101ff020101");
  EXPECT_EQ(to_hex(**ca.extension("2.5.29.15")), "03020186");
  EXPECT_TRUE(contains(ca.der(), *from_hex("0603551d130101ff0408")));
  EXPECT_TRUE(contains(ca.der(), *from_hex("0603551d0f0101ff0404")));
  Bytes ski{0x04, 0x14};
  base::append(ski, base::ByteView(crypto::sha256(key.spki())).first(20));
  EXPECT_EQ(**ca.extension("2.5.29.14"), ski);
  // Serial: SHA-256 of the point with the top bit cleared, 20 bytes.
  auto digest = crypto::sha256(key.public_key().point());
  digest[0] &= 0x7f;
  Bytes serial;
  base::append(serial, base::ByteView(digest).first(20));
  EXPECT_TRUE(contains(ca.der(), serial));
}

TEST(X509, LeafHasNamesUsagesAndNestedExtensions) {
  const auto ca = new_ca("ca", 0);
  CertificateProfile profile;
  profile.alt_names = {"10.0.2.2", "localhost", "::1"};
  profile.server_auth = true;
  profile.extensions = {{k_oid, {0xaa, 0xbb}}};
  profile.not_before = 1'600'000'000;
  profile.not_after = 4'000'000'000;
  const auto certificate = leaf(ca, profile);
  EXPECT_FALSE(certificate.is_ca());
  EXPECT_EQ(certificate.alt_names(), (std::vector<std::string>{"10.0.2.2", "localhost", "::1"}));
  EXPECT_EQ(to_hex(**certificate.extension("2.5.29.15")), "03020780");
  EXPECT_EQ(to_hex(**certificate.extension("2.5.29.37")), "300a06082b06010505070301");
  EXPECT_FALSE(certificate.extension("2.5.29.19")->has_value());
  EXPECT_FALSE(certificate.extension("2.5.29.14")->has_value());
  // An OCTET STRING in an OCTET STRING: 04 04 04 02 AA BB.
  EXPECT_EQ(to_hex(**certificate.extension(k_oid)), "0402aabb");
  EXPECT_TRUE(contains(certificate.der(), *from_hex("04040402aabb")));
  EXPECT_EQ(**certificate.nested_extension(k_oid), (Bytes{0xaa, 0xbb}));
  EXPECT_EQ(certificate.not_before(), 1'600'000'000);
  EXPECT_EQ(certificate.not_after(), 4'000'000'000);
}

TEST(X509, DuplicateAndMalformedExtensionsAreRefused) {
  const auto ca = new_ca("ca", 0);
  CertificateProfile twice;
  twice.extensions = {{k_oid, {1}}, {k_oid, {1}}};
  const auto duplicated = leaf(ca, twice);
  EXPECT_EQ(duplicated.nested_extension(k_oid).error().code, Code::bad_certificate);
  for (const char* content : {"aabb", "0403aabb", "0402aabbcc", ""}) {
    CertificateProfile raw;
    raw.raw_extensions = {{k_oid, *from_hex(content)}};
    EXPECT_FALSE(leaf(ca, raw).nested_extension(k_oid)) << content;
  }
  EXPECT_FALSE(leaf(ca).nested_extension(k_oid)->has_value());
  // A longer OID with the same beginning is another extension.
  CertificateProfile lookalike;
  lookalike.extensions = {{std::string(k_oid) + ".1", {1}}};
  EXPECT_FALSE(leaf(ca, lookalike).nested_extension(k_oid)->has_value());
}

TEST(X509, UnusableProfilesAreRefused) {
  const auto ca = new_ca("ca", 0);
  const auto key = P256Key::generate().value();
  const auto refused = [&](const CertificateProfile& profile) {
    return !crypto::issue(profile, key.public_key(), ca).has_value();
  };
  CertificateProfile profile;
  profile.not_before = 2'000'000'000;
  profile.not_after = 1'000'000'000;
  EXPECT_TRUE(refused(profile));
  profile.not_after = INT64_MAX;
  EXPECT_TRUE(refused(profile));
  profile = {};
  profile.common_name = std::string(65, 'x');
  EXPECT_TRUE(refused(profile));
  profile.common_name = std::string("a\0b", 3);
  EXPECT_TRUE(refused(profile));
  profile = {};
  profile.alt_names = {std::string("good.example\0.evil", 18)};
  EXPECT_TRUE(refused(profile));
  profile.alt_names = {""};
  EXPECT_TRUE(refused(profile));
  profile.alt_names = {"a b"};
  EXPECT_TRUE(refused(profile));
}

TEST(X509, ChainsVerifyOnlyToTheirAnchor) {
  const auto root = new_ca("root", 1);
  const auto sub = sub_ca(root, 0);
  const auto end = leaf(sub);
  const crypto::Certificate chain[] = {end, sub.certificate};
  EXPECT_TRUE(crypto::verify_chain(chain, std::span(&root.certificate, 1), now()));
  const auto foreign = new_ca("root", 1);  // the same name, another key
  EXPECT_FALSE(crypto::verify_chain(chain, std::span(&foreign.certificate, 1), now()));
  EXPECT_FALSE(crypto::verify_chain(chain, {}, now()));
  EXPECT_FALSE(crypto::verify_chain(std::span(chain, 1), std::span(&root.certificate, 1), now()));
  EXPECT_FALSE(crypto::verify_chain({}, std::span(&root.certificate, 1), now()));
  EXPECT_FALSE(crypto::verify_chain(chain, std::span(&root.certificate, 1), now() + 4000LL * 86400));
}

TEST(X509, PathLengthAndCaFlagAreEnforced) {
  const auto root = new_ca("root", 0);
  const auto sub = sub_ca(root, 0);  // one CA more than the root allows
  const crypto::Certificate too_long[] = {leaf(sub), sub.certificate};
  EXPECT_FALSE(crypto::verify_chain(too_long, std::span(&root.certificate, 1), now()));
  // A leaf that signs: its certificate is no CA.
  const auto key = P256Key::generate().value();
  CertificateProfile profile;
  profile.common_name = "not a CA";
  const auto middle = crypto::issue(profile, key.public_key(), root).value();
  EXPECT_FALSE(crypto::make_ca(P256Key::from_scalar(key.scalar().view()).value(), middle));
  const crypto::CertificateAuthority fake{P256Key::from_scalar(key.scalar().view()).value(), middle};
  const crypto::Certificate forged[] = {leaf(fake), middle};
  EXPECT_FALSE(crypto::verify_chain(forged, std::span(&root.certificate, 1), now()));
}

TEST(X509, EveryByteOfASignatureMatters) {
  const auto root = new_ca("root", 0);
  const auto end = leaf(root);
  for (std::size_t back = 1; back <= 60; ++back) {
    Bytes der = end.der();
    der[der.size() - back] ^= 0x10;
    const auto changed = crypto::Certificate::from_der(der);
    EXPECT_TRUE(!changed ||
                !crypto::verify_chain(std::span(&*changed, 1), std::span(&root.certificate, 1), now()))
        << back;
  }
}

TEST(X509, PemChainsAreStrict) {
  const auto root = new_ca("root", 0);
  const auto end = leaf(root);
  const std::string pem = end.pem() + root.certificate.pem();
  EXPECT_EQ(crypto::read_pem_chain(pem)->size(), 2U);
  EXPECT_EQ(crypto::read_pem_chain(pem + std::string(3, '\0'))->size(), 2U);
  EXPECT_EQ((*crypto::read_pem_chain(pem))[0].der(), end.der());
  EXPECT_FALSE(crypto::read_pem_chain(""));
  EXPECT_FALSE(crypto::read_pem_chain("junk\n" + pem));
  EXPECT_FALSE(crypto::read_pem_chain(pem + "junk"));
  EXPECT_FALSE(crypto::read_pem_chain(pem.substr(0, pem.size() - 4)));
  EXPECT_EQ(crypto::read_pem_chain(pem, 1).error().code, Code::too_large);
  EXPECT_FALSE(crypto::read_pem_chain("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
}

TEST(X509, DerIsBounded) {
  const auto root = new_ca("root", 0);
  Bytes der = root.certificate.der();
  for (std::size_t size = 0; size < der.size(); ++size) {
    EXPECT_FALSE(crypto::Certificate::from_der(base::ByteView(der).first(size)));
  }
  der.push_back(0);
  EXPECT_FALSE(crypto::Certificate::from_der(der));
}

TEST(X509, ACaNeedsItsOwnKey) {
  const auto a = new_ca("a", 0);
  const auto b = new_ca("b", 0);
  EXPECT_TRUE(crypto::load_ca(a.key.pkcs8_pem().text(), a.certificate.pem()));
  const auto mixed = crypto::load_ca(b.key.pkcs8_pem().text(), a.certificate.pem());
  EXPECT_EQ(mixed.error().code, Code::bad_certificate);
  EXPECT_FALSE(mixed.error().fix.empty());
}
