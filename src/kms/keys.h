// The KMS's own keys, what follows from them for an app, and the files they live in (spec/guest-kms.md
// sections 1.2, 1.3 and 1.5).
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "crypto/k256.h"
#include "crypto/p256.h"
#include "crypto/secret.h"
#include "crypto/x509.h"

namespace dstack::kms {

struct RootKeys {
  crypto::CertificateAuthority temp_ca;  // its private key is public by design: GetTempCaCert hands it out
  crypto::CertificateAuthority root_ca;
  crypto::P256Key rpc_key;
  crypto::K256Key k256;
};

// New keys and CA certificates, nothing written.
base::Result<RootKeys> generate_root_keys();

enum class KeyState { none, complete };
// Looks for the six PEM files and root-k256.key. Some but not all of them is Code::kms_keys: keys are never
// made anew beside others.
base::Result<KeyState> find_root_keys(const std::filesystem::path& cert_dir);
// All files, then one rename to `cert_dir`, which must not exist or be empty: either all keys are there or
// none. Private keys are 0600. `rpc_certificate_pem` becomes rpc.crt, `domain` rpc-domain.
base::Result<> store_root_keys(const std::filesystem::path& cert_dir, const RootKeys& keys,
                               const std::string& rpc_certificate_pem, const std::string& domain);
base::Result<RootKeys> load_root_keys(const std::filesystem::path& cert_dir);
// Issues the root or temp CA certificate anew, for the same key, when it ends within 365 days of `now`.
base::Result<> renew_ca_certificates(const std::filesystem::path& cert_dir, RootKeys& keys, std::int64_t now);

// What an app instance gets.
struct AppSecrets {
  crypto::Secret disk_key;
  crypto::Secret env_key;  // X25519, unclamped
  crypto::K256Key k256;
  crypto::K256Signature k256_signature;
};
base::Result<AppSecrets> derive_app_secrets(const RootKeys& keys, base::ByteView app_id,
                                            base::ByteView instance_id);

// The key for the app's environment, signed by the k256 root (both forms of section 1.5).
struct EnvPublicKey {
  std::array<std::uint8_t, 32> key{};
  crypto::K256Signature signature{};
  crypto::K256Signature signature_v1{};
};
base::Result<EnvPublicKey> derive_env_public_key(const RootKeys& keys, base::ByteView app_id,
                                                 std::uint64_t timestamp);

// The app's own CA: key derived, certificate issued by the root with app id and usage.
base::Result<crypto::CertificateAuthority> derive_app_ca(const RootKeys& keys, base::ByteView app_id);

}  // namespace dstack::kms
