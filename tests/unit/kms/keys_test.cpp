#include "kms/keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <ctime>
#include <filesystem>

#include "attest/ra_tls.h"
#include "base/fs.h"
#include "crypto/hash.h"
#include "unit/temp_dir.h"

using namespace dstack;
using base::as_bytes;
using base::Bytes;
using base::Code;
using base::from_hex;
using base::to_hex;
namespace fs = std::filesystem;

namespace {

// spec/guest-kms.md section 10.
kms::RootKeys golden_keys() {
  auto keys = kms::generate_root_keys().value();
  auto key = crypto::P256Key::from_scalar(
                 *from_hex("f57527cea4ab7ffb49af99b158cdc0e3ec06398f528349ea236b7d2afe19cec1"))
                 .value();
  crypto::CertificateProfile profile;
  profile.common_name = "golden";
  profile.ca_path_length = 1;
  auto certificate = crypto::self_sign(profile, key).value();
  keys.root_ca = crypto::make_ca(std::move(key), std::move(certificate)).value();
  keys.k256 = crypto::K256Key::from_scalar(Bytes(32, 0x33)).value();
  return keys;
}

const Bytes k_app_id(20, 0x11);
const Bytes k_instance_id(20, 0x22);

mode_t mode_of(const fs::path& file) {
  struct stat info{};
  EXPECT_EQ(::stat(file.c_str(), &info), 0) << file;
  return info.st_mode & 07777;
}

}  // namespace

TEST(KmsKeys, AppSecretsMatchTheGoldenValues) {
  const auto keys = golden_keys();
  const auto secrets = kms::derive_app_secrets(keys, k_app_id, k_instance_id).value();
  EXPECT_EQ(to_hex(secrets.disk_key.view()),
            "a59c814e2c6d9353af59ce4fba7215e5ec3b62a2495b4dca48ea6f9804061f51");
  EXPECT_EQ(to_hex(secrets.env_key.view()),
            "a7470db8cfdd0fe24134b461d60766afa7c078abe6dce9f2c8a5c44034ca400e");
  EXPECT_EQ(to_hex(secrets.k256.scalar().view()),
            "6a77df55522c222fcb593ca9bb0d96132429d99b5c078cd152f1c0367516d6fb");
  const auto digest =
      crypto::keccak256({as_bytes("dstack-kms-issued:"), k_app_id, secrets.k256.public_key()});
  EXPECT_EQ(*crypto::k256_recover(digest, secrets.k256_signature), keys.k256.public_key());
  const auto ca = kms::derive_app_ca(keys, k_app_id).value();
  EXPECT_EQ(to_hex(ca.key.scalar().view()),
            "5b779e0a9fe80b2e5866d94958daa1a4e29a183228b3f37acd7eae153e18a75f");
}

TEST(KmsKeys, SecretsDifferByAppAndDiskKeysByInstance) {
  const auto keys = golden_keys();
  const auto a = kms::derive_app_secrets(keys, k_app_id, k_instance_id).value();
  const auto b = kms::derive_app_secrets(keys, Bytes(20, 0x12), k_instance_id).value();
  const auto c = kms::derive_app_secrets(keys, k_app_id, {}).value();
  EXPECT_NE(to_hex(a.disk_key.view()), to_hex(b.disk_key.view()));
  EXPECT_NE(to_hex(a.env_key.view()), to_hex(b.env_key.view()));
  EXPECT_NE(to_hex(a.disk_key.view()), to_hex(c.disk_key.view()));
  EXPECT_EQ(to_hex(a.env_key.view()), to_hex(c.env_key.view()));
}

TEST(KmsKeys, EnvPublicKeyIsSignedInBothForms) {
  const auto keys = golden_keys();
  constexpr std::uint64_t k_time = 0x0102030405060708;
  const auto env = kms::derive_env_public_key(keys, k_app_id, k_time).value();
  EXPECT_EQ(to_hex(env.key), "93cf259f68b24775d54290a8ea57cf93efc994d3ff28a7b8ba7a39e9f512302f");
  const auto legacy = crypto::keccak256({as_bytes("dstack-env-encrypt-pubkey:"), k_app_id, env.key});
  EXPECT_EQ(*crypto::k256_recover(legacy, env.signature), keys.k256.public_key());
  const auto v1 = crypto::keccak256(
      {as_bytes("dstack-env-encrypt-pubkey:"), k_app_id, *from_hex("0102030405060708"), env.key});
  EXPECT_EQ(*crypto::k256_recover(v1, env.signature_v1), keys.k256.public_key());
}

TEST(KmsKeys, AppCaChainsToTheRootAndNamesTheApp) {
  const auto keys = kms::generate_root_keys().value();
  const auto ca = kms::derive_app_ca(keys, k_app_id).value();
  EXPECT_TRUE(crypto::verify_chain(std::span(&ca.certificate, 1), std::span(&keys.root_ca.certificate, 1),
                                   std::time(nullptr)));
  const auto claims = attest::read_claims(ca.certificate).value();
  EXPECT_EQ(claims.app_id, k_app_id);
  EXPECT_EQ(claims.usage, "app:ca");
}

TEST(KmsKeys, StoredKeysAreFoundPrivateAndTheSame) {
  test::TempDir directory;
  const auto certs = directory.path() / "kms" / "certs";
  EXPECT_EQ(*kms::find_root_keys(certs), kms::KeyState::none);
  const auto keys = kms::generate_root_keys().value();
  const auto stored = kms::store_root_keys(certs, keys, keys.temp_ca.certificate.pem(), "10.0.2.2");
  ASSERT_TRUE(stored) << stored.error().what();
  EXPECT_EQ(*kms::find_root_keys(certs), kms::KeyState::complete);
  for (const char* name : {"tmp-ca.key", "root-ca.key", "rpc.key", "root-k256.key"}) {
    EXPECT_EQ(mode_of(certs / name), 0600U) << name;
  }
  EXPECT_EQ(fs::file_size(certs / "root-k256.key"), 32U);
  EXPECT_EQ(*base::read_file(certs / "rpc-domain"), "10.0.2.2");
  const auto again = kms::load_root_keys(certs).value();
  EXPECT_EQ(again.root_ca.certificate.der(), keys.root_ca.certificate.der());
  EXPECT_EQ(again.temp_ca.key.spki(), keys.temp_ca.key.spki());
  EXPECT_EQ(again.rpc_key.spki(), keys.rpc_key.spki());
  EXPECT_EQ(again.k256.public_key(), keys.k256.public_key());
  // Nothing but the directory itself is left beside it.
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path() / "kms"), fs::directory_iterator()), 1);
}

TEST(KmsKeys, KeysAreNeverOverwritten) {
  test::TempDir directory;
  const auto certs = directory.path() / "certs";
  const auto keys = kms::generate_root_keys().value();
  ASSERT_TRUE(kms::store_root_keys(certs, keys, keys.temp_ca.certificate.pem(), "a"));
  const auto before = *base::read_file(certs / "root-ca.key");
  const auto second = kms::store_root_keys(certs, kms::generate_root_keys().value(), "x", "a");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kms_keys);
  EXPECT_EQ(*base::read_file(certs / "root-ca.key"), before);
}

TEST(KmsKeys, AnIncompleteSetIsAnErrorThatNamesWhatIsMissing) {
  test::TempDir directory;
  const auto certs = directory.path() / "certs";
  const auto keys = kms::generate_root_keys().value();
  ASSERT_TRUE(kms::store_root_keys(certs, keys, keys.temp_ca.certificate.pem(), "a"));
  for (const char* name : {"root-ca.key", "root-k256.key", "tmp-ca.crt", "rpc.crt"}) {
    const auto text = *base::read_file(certs / name);
    fs::remove(certs / name);
    const auto state = kms::find_root_keys(certs);
    ASSERT_FALSE(state) << name;
    EXPECT_NE(state.error().what().find(name), std::string::npos);
    ASSERT_TRUE(base::write_file_atomic(certs / name, text));
  }
}

TEST(KmsKeys, AnInterruptedBootstrapLeavesNothingBehind) {
  test::TempDir directory;
  const auto certs = directory.path() / "certs";
  // What a crash in the middle leaves: some files in the staging directory.
  fs::create_directories(directory.path() / "certs.bootstrap");
  ASSERT_TRUE(base::write_file_atomic(directory.path() / "certs.bootstrap" / "root-ca.key", "old"));
  EXPECT_EQ(*kms::find_root_keys(certs), kms::KeyState::none);
  fs::create_directories(certs);
  const auto keys = kms::generate_root_keys().value();
  ASSERT_TRUE(kms::store_root_keys(certs, keys, keys.temp_ca.certificate.pem(), "a"));
  EXPECT_TRUE(kms::load_root_keys(certs));
  EXPECT_FALSE(fs::exists(directory.path() / "certs.bootstrap"));
}

TEST(KmsKeys, MixedUpFilesAreRefused) {
  test::TempDir directory;
  const auto certs = directory.path() / "certs";
  const auto keys = kms::generate_root_keys().value();
  ASSERT_TRUE(kms::store_root_keys(certs, keys, keys.temp_ca.certificate.pem(), "a"));
  const auto other = kms::generate_root_keys().value();
  ASSERT_TRUE(base::write_file_atomic(certs / "root-ca.crt", other.root_ca.certificate.pem()));
  EXPECT_EQ(kms::load_root_keys(certs).error().code, Code::bad_certificate);
}

TEST(KmsKeys, CertificatesAreRenewedOnlyNearTheirEnd) {
  test::TempDir directory;
  auto keys = kms::generate_root_keys().value();
  const auto before = keys.root_ca.certificate.der();
  ASSERT_TRUE(kms::renew_ca_certificates(directory.path(), keys, std::time(nullptr)));
  EXPECT_EQ(keys.root_ca.certificate.der(), before);
  ASSERT_TRUE(kms::renew_ca_certificates(directory.path(), keys, std::time(nullptr) + 3300LL * 86400));
  EXPECT_NE(keys.root_ca.certificate.der(), before);
  EXPECT_EQ(keys.root_ca.certificate.spki(), keys.root_ca.key.spki());
  EXPECT_EQ(*base::read_file(directory.path() / "root-ca.crt"), keys.root_ca.certificate.pem());
}
