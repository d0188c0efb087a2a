#include "crypto/kdf.h"

#include <gtest/gtest.h>

#include "crypto/x25519.h"

using namespace dstack;
using base::as_bytes;
using base::Bytes;
using base::from_hex;
using base::to_hex;

namespace {

// spec/guest-kms.md section 10.
const char* const k_root_scalar = "f57527cea4ab7ffb49af99b158cdc0e3ec06398f528349ea236b7d2afe19cec1";
const Bytes k_app_id(20, 0x11);
const Bytes k_instance_id(20, 0x22);

crypto::P256Key root() {
  return crypto::P256Key::from_scalar(*from_hex(k_root_scalar)).value();
}

}  // namespace

TEST(Kdf, HkdfMatchesRfc5869Case1) {
  const auto out = crypto::hkdf_sha256(Bytes(22, 0x0b), *from_hex("000102030405060708090a0b0c"),
                                       *from_hex("f0f1f2f3f4f5f6f7f8f9"), 42);
  EXPECT_EQ(to_hex(out->view()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
}

TEST(Kdf, RootKeyHasItsKnownPublicKey) {
  EXPECT_EQ(
      to_hex(root().spki()),
      "3059301306072a8648ce3d020106082a8648ce3d0301070342000491f50522407ce29dce3ed7d31a15d80c1c42f13a23552d2b"
      "33a0ce09ee11e47bce95936f3e7f80d195f879e28e1b144ef37ac9ab8e36a690cbf930b775897b27");
}

TEST(Kdf, MatchesTheGoldenValues) {
  EXPECT_EQ(to_hex(crypto::derive_p256(root(), {k_app_id, as_bytes("app-ca")})->scalar().view()),
            "5b779e0a9fe80b2e5866d94958daa1a4e29a183228b3f37acd7eae153e18a75f");
  EXPECT_EQ(to_hex(crypto::derive_dh_secret(root(), {k_app_id, k_instance_id, as_bytes("app-disk-crypt-key")})
                       ->view()),
            "a59c814e2c6d9353af59ce4fba7215e5ec3b62a2495b4dca48ea6f9804061f51");
  const auto env = crypto::derive_dh_secret(root(), {k_app_id, as_bytes("env-encrypt-key")});
  EXPECT_EQ(to_hex(env->view()), "a7470db8cfdd0fe24134b461d60766afa7c078abe6dce9f2c8a5c44034ca400e");
  EXPECT_EQ(to_hex(*crypto::x25519_public(env->view())),
            "93cf259f68b24775d54290a8ea57cf93efc994d3ff28a7b8ba7a39e9f512302f");
  const auto k256 = crypto::derive_k256(Bytes(32, 0x33), {k_app_id, as_bytes("app-key")});
  EXPECT_EQ(to_hex(k256->scalar().view()),
            "6a77df55522c222fcb593ca9bb0d96132429d99b5c078cd152f1c0367516d6fb");
  EXPECT_EQ(
      to_hex(crypto::derive_dh_secret(root(), {as_bytes("context one"), as_bytes("context two")})->view()),
      "663afd58820be8ad645f9c035e93199d114ab16f738db62393bc1d7d623e8813");
}

TEST(Kdf, ContextIsAPlainConcatenation) {
  EXPECT_EQ(to_hex(crypto::derive_key(Bytes(32, 1), {as_bytes("ab"), as_bytes("c")})->view()),
            to_hex(crypto::derive_key(Bytes(32, 1), {as_bytes("a"), as_bytes("bc")})->view()));
  EXPECT_NE(to_hex(crypto::derive_key(Bytes(32, 1), {as_bytes("abc")})->view()),
            to_hex(crypto::derive_key(Bytes(32, 1), {as_bytes("abd")})->view()));
}
