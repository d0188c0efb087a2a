#include <gtest/gtest.h>

#include <type_traits>

#include "crypto/k256.h"
#include "crypto/p256.h"
#include "crypto/random.h"
#include "crypto/x25519.h"

using namespace dstack;
using base::as_bytes;
using base::Bytes;
using base::Code;
using base::from_hex;
using base::to_hex;

static_assert(!std::is_copy_constructible_v<crypto::Secret>);
static_assert(!std::is_copy_constructible_v<crypto::K256Key>);

TEST(Secret, MovesAndClones) {
  crypto::Secret a(as_bytes("key"));
  crypto::Secret b = a.clone();
  crypto::Secret c = std::move(a);
  EXPECT_EQ(b.text(), "key");
  EXPECT_EQ(c.text(), "key");
  c = crypto::Secret(as_bytes("other"));
  EXPECT_EQ(c.text(), "other");
}

TEST(Random, GivesWhatWasAskedFor) {
  EXPECT_EQ(crypto::random_bytes(33)->size(), 33U);
  EXPECT_NE(*crypto::random_bytes(32), *crypto::random_bytes(32));
  EXPECT_TRUE(crypto::random_bytes(0)->empty());
}

TEST(P256, Pkcs8HasTheExactLayout) {
  const Bytes scalar(32, 0x42);
  const auto key = crypto::P256Key::from_scalar(scalar).value();
  const Bytes point = key.public_key().point();
  ASSERT_EQ(point.size(), 65U);
  Bytes expected = *from_hex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420");
  base::append(expected, base::ByteView(scalar));
  base::append(expected, *from_hex("a144034200"));
  base::append(expected, base::ByteView(point));
  EXPECT_EQ(to_hex(key.pkcs8_der().view()), to_hex(expected));
  EXPECT_EQ(expected.size(), 138U);
}

TEST(P256, PemRoundTripsAndJunkIsRefused) {
  const auto key = crypto::P256Key::generate().value();
  const auto pem = key.pkcs8_pem();
  EXPECT_TRUE(pem.text().starts_with("-----BEGIN PRIVATE KEY-----\n"));
  EXPECT_EQ(crypto::P256Key::from_pkcs8_pem(pem.text())->spki(), key.spki());
  EXPECT_EQ(to_hex(crypto::P256Key::from_pkcs8_pem(pem.text())->scalar().view()),
            to_hex(key.scalar().view()));
  EXPECT_EQ(crypto::P256Key::from_pkcs8_pem("junk").error().code, Code::bad_key);
  EXPECT_EQ(crypto::P256Key::from_pkcs8_pem("").error().code, Code::bad_key);
}

TEST(P256, ScalarsOutsideTheGroupAreRefused) {
  EXPECT_FALSE(crypto::P256Key::from_scalar(Bytes(32, 0)));
  EXPECT_FALSE(crypto::P256Key::from_scalar(Bytes(32, 0xff)));
  EXPECT_FALSE(crypto::P256Key::from_scalar(Bytes(31, 1)));
  // The order itself, and one below.
  auto order = *from_hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
  EXPECT_FALSE(crypto::P256Key::from_scalar(order));
  order.back() -= 1;
  EXPECT_TRUE(crypto::P256Key::from_scalar(order));
}

TEST(P256, SignaturesVerifyAndBreakWhenTouched) {
  const auto key = crypto::P256Key::generate().value();
  const auto message = as_bytes("message");
  auto der = key.sign_der(message).value();
  auto raw = key.sign_raw(message).value();
  EXPECT_TRUE(key.public_key().verify_der(message, der));
  EXPECT_TRUE(key.public_key().verify_raw(message, raw));
  EXPECT_FALSE(key.public_key().verify_der(as_bytes("massage"), der));
  der[der.size() - 1] ^= 1;
  raw[63] ^= 1;
  EXPECT_FALSE(key.public_key().verify_der(message, der));
  EXPECT_FALSE(key.public_key().verify_raw(message, raw));
  EXPECT_FALSE(key.public_key().verify_raw(message, Bytes(64, 0)));
  EXPECT_FALSE(key.public_key().verify_raw(message, Bytes(63, 1)));
  EXPECT_FALSE(key.public_key().verify_der(message, {}));
}

TEST(P256, PublicKeysAreChecked) {
  const auto key = crypto::P256Key::generate().value();
  EXPECT_EQ(crypto::P256PublicKey::from_spki(key.spki())->spki(), key.spki());
  EXPECT_EQ(crypto::P256PublicKey::from_raw(key.public_key().raw())->spki(), key.spki());
  auto trailing = key.spki();
  trailing.push_back(0);
  EXPECT_FALSE(crypto::P256PublicKey::from_spki(trailing));
  EXPECT_FALSE(crypto::P256PublicKey::from_spki({}));
  auto off_curve = key.public_key().raw();
  off_curve[63] ^= 1;
  EXPECT_FALSE(crypto::P256PublicKey::from_raw(off_curve));
  EXPECT_FALSE(crypto::P256PublicKey::from_raw(Bytes(64, 0)));
  // A compressed point is the same key but other bytes: bindings hash the bytes, so one form only.
  Bytes compressed = *from_hex("3039301306072a8648ce3d020106082a8648ce3d030107032200");
  const auto point = key.public_key().point();
  compressed.push_back(point.back() % 2 == 0 ? 2 : 3);
  compressed.insert(compressed.end(), point.begin() + 1, point.begin() + 33);
  EXPECT_FALSE(crypto::P256PublicKey::from_spki(compressed));
}

TEST(K256, RecoversTheSigner) {
  const auto key = crypto::K256Key::from_scalar(Bytes(32, 0x33)).value();
  const auto digest = crypto::keccak256(as_bytes("text"));
  auto signature = key.sign_recoverable(digest).value();
  EXPECT_LE(signature[64], 1);
  EXPECT_EQ(*crypto::k256_recover(digest, signature), key.public_key());
  EXPECT_TRUE(crypto::k256_verify(key.public_key(), digest, signature));
  EXPECT_TRUE(crypto::k256_verify(key.public_key(), digest, base::ByteView(signature).first(64)));
  signature[5] ^= 1;
  EXPECT_FALSE(crypto::k256_verify(key.public_key(), digest, signature));
  const auto other = crypto::k256_recover(digest, signature);
  EXPECT_TRUE(!other || *other != key.public_key());
  EXPECT_FALSE(crypto::k256_recover(digest, Bytes(64, 1)));
  Bytes high_id(65, 1);
  high_id[64] = 27;
  EXPECT_FALSE(crypto::k256_recover(digest, high_id));
}

// The simulator's recorded key chain: its signature leads to the one root key that the spec names (section 9
// row 4).
TEST(K256, RecordedSignatureChainLeadsToItsRoot) {
  const auto app = crypto::K256Key::from_scalar(
                       *from_hex("d6e88992cdeeee35fe70b5db61ab66cdb191fb9b6ec9313757ef162dd7214d5d"))
                       .value();
  const auto app_id = *from_hex("5bb4ff9a3837357f19dc176407a5709c62eb6c56");
  const auto digest = crypto::keccak256({as_bytes("dstack-kms-issued:"), app_id, app.public_key()});
  const auto root = crypto::k256_recover(
      digest,
      *from_hex("9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e594d2a283f843f34e8f39e4cc49a"
                "612496ce67223a12ac923f8efe330346dfc6c500"));
  EXPECT_EQ(to_hex(*root), "0321529e458424ab1f710a3a57ec4dad2fb195ddca572f7469242ba6c7563085b6");
}

TEST(K256, BadScalarsAreRefused) {
  EXPECT_FALSE(crypto::K256Key::from_scalar(Bytes(32, 0)));
  EXPECT_FALSE(crypto::K256Key::from_scalar(Bytes(32, 0xff)));
  EXPECT_FALSE(crypto::K256Key::from_scalar(Bytes(33, 1)));
  EXPECT_TRUE(crypto::K256Key::generate());
}

// RFC 7748 section 6.1.
TEST(X25519, MatchesRfc7748) {
  const auto secret = *from_hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
  const auto peer = *from_hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
  EXPECT_EQ(to_hex(*crypto::x25519_public(secret)),
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
  EXPECT_EQ(to_hex(crypto::x25519_shared(secret, peer)->view()),
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
  EXPECT_FALSE(crypto::x25519_public(Bytes(31, 1)));
  EXPECT_FALSE(crypto::x25519_shared(secret, Bytes(32, 0)));  // a point of small order
}

// RFC 8032 section 7.1, test 2.
TEST(Ed25519, MatchesRfc8032) {
  const auto seed = *from_hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
  const auto key = crypto::ed25519_public(seed).value();
  EXPECT_EQ(to_hex(key), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
  auto signature = crypto::ed25519_sign(seed, Bytes{0x72}).value();
  EXPECT_EQ(to_hex(signature),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4"
            "302aeeb00d291612bb0c00");
  EXPECT_TRUE(crypto::ed25519_verify(key, Bytes{0x72}, signature));
  EXPECT_FALSE(crypto::ed25519_verify(key, Bytes{0x73}, signature));
}
