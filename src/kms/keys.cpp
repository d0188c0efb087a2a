#include "kms/keys.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "attest/ra_tls.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/kdf.h"
#include "crypto/x25519.h"

namespace dstack::kms {
namespace {

using base::as_bytes;
using base::ByteView;
using base::Code;
using base::fail;
using base::format;
using base::Result;
namespace fs = std::filesystem;

constexpr const char* k_files[] = {"tmp-ca.crt", "tmp-ca.key", "root-ca.crt",  "root-ca.key",
                                   "rpc.crt",    "rpc.key",    "root-k256.key"};
constexpr std::int64_t k_renew_before = 365LL * 86400;
constexpr mode_t k_private = 0600;
constexpr mode_t k_public = 0644;

crypto::CertificateProfile ca_profile(std::string name, unsigned path_length) {
  crypto::CertificateProfile profile;
  profile.organization = "Dstack";
  profile.common_name = std::move(name);
  profile.ca_path_length = path_length;
  return profile;
}
crypto::CertificateProfile root_ca_profile() {
  return ca_profile("Dstack KMS CA", 1);
}
crypto::CertificateProfile temp_ca_profile() {
  return ca_profile("Dstack Client Temp CA", 0);
}

Result<crypto::CertificateAuthority> new_ca(const crypto::CertificateProfile& profile) {
  DS_TRY(auto key, crypto::P256Key::generate());
  DS_TRY(auto certificate, crypto::self_sign(profile, key));
  return crypto::make_ca(std::move(key), std::move(certificate));
}

Result<> write(const fs::path& file, std::string_view data, mode_t mode) {
  return base::write_file_atomic(file, data, {.mode = mode, .force_mode = true});
}

Result<crypto::Secret> read_secret(const fs::path& file) {
  DS_TRY(auto text, base::read_file(file, 64 * 1024));
  crypto::Secret out(as_bytes(text));
  crypto::cleanse(text.data(), text.size());
  return out;
}

Result<crypto::CertificateAuthority> read_ca(const fs::path& directory, const std::string& stem) {
  DS_TRY(auto key, read_secret(directory / (stem + ".key")));
  DS_TRY(auto certificate, base::read_file(directory / (stem + ".crt"), 64 * 1024));
  auto ca = crypto::load_ca(key.text(), certificate);
  if (!ca) {
    return fail(std::move(ca).error(), format("{}/{}.key and .crt", directory.string(), stem));
  }
  return ca;
}

Result<> renew(const fs::path& file, crypto::CertificateAuthority& ca,
               const crypto::CertificateProfile& profile, std::int64_t now) {
  if (ca.certificate.not_after() - now > k_renew_before) {
    return {};
  }
  DS_TRY(auto certificate, crypto::self_sign(profile, ca.key));
  DS_CHECK(write(file, certificate.pem(), k_public));
  ca.certificate = std::move(certificate);
  return {};
}

}  // namespace

Result<RootKeys> generate_root_keys() {
  DS_TRY(auto temp_ca, new_ca(temp_ca_profile()));
  DS_TRY(auto root_ca, new_ca(root_ca_profile()));
  DS_TRY(auto rpc_key, crypto::P256Key::generate());
  DS_TRY(auto k256, crypto::K256Key::generate());
  return RootKeys{std::move(temp_ca), std::move(root_ca), std::move(rpc_key), std::move(k256)};
}

Result<KeyState> find_root_keys(const fs::path& cert_dir) {
  std::string missing;
  std::size_t found = 0;
  for (const char* name : k_files) {
    std::error_code error;
    if (fs::exists(cert_dir / name, error)) {
      ++found;
    } else if (error) {
      return base::fail_errno(Code::io, format("cannot look at {}", (cert_dir / name).string()),
                              error.value());
    } else {
      missing += missing.empty() ? name : format(", {}", name);
    }
  }
  if (found == 0) {
    return KeyState::none;
  }
  if (!missing.empty()) {
    return fail(Code::kms_keys,
                format("{} has some of the KMS's keys but not {}", cert_dir.string(), missing),
                "restore the directory from a backup; empty it only if no app's data depend on these keys");
  }
  return KeyState::complete;
}

Result<> store_root_keys(const fs::path& cert_dir, const RootKeys& keys,
                         const std::string& rpc_certificate_pem, const std::string& domain) {
  const fs::path directory = cert_dir.lexically_normal();
  const fs::path staging = directory.parent_path() / (directory.filename().string() + ".bootstrap");
  // What an earlier, interrupted bootstrap left was never used for anything.
  DS_CHECK(base::remove_tree(staging));
  DS_CHECK(base::make_dirs(staging, 0700));
  DS_CHECK(write(staging / "tmp-ca.key", keys.temp_ca.key.pkcs8_pem().text(), k_private));
  DS_CHECK(write(staging / "tmp-ca.crt", keys.temp_ca.certificate.pem(), k_public));
  DS_CHECK(write(staging / "root-ca.key", keys.root_ca.key.pkcs8_pem().text(), k_private));
  DS_CHECK(write(staging / "root-ca.crt", keys.root_ca.certificate.pem(), k_public));
  DS_CHECK(write(staging / "rpc.key", keys.rpc_key.pkcs8_pem().text(), k_private));
  DS_CHECK(write(staging / "rpc.crt", rpc_certificate_pem, k_public));
  DS_CHECK(write(staging / "root-k256.key", keys.k256.scalar().text(), k_private));
  DS_CHECK(write(staging / "rpc-domain", domain, k_public));
  if (::rename(staging.c_str(), directory.c_str()) != 0) {
    const int error = errno;
    (void)base::remove_tree(staging);
    return base::fail_errno(
        Code::kms_keys, format("new keys cannot be put into {}", directory.string()), error,
        "let core.cert_dir be an empty or missing directory inside a volume, not its mount point");
  }
  base::Fd parent(::open(directory.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) {
    return base::fail_errno(Code::io, format("cannot sync {}", directory.parent_path().string()), errno);
  }
  return {};
}

Result<RootKeys> load_root_keys(const fs::path& cert_dir) {
  DS_TRY(auto temp_ca, read_ca(cert_dir, "tmp-ca"));
  DS_TRY(auto root_ca, read_ca(cert_dir, "root-ca"));
  DS_TRY(auto rpc_pem, read_secret(cert_dir / "rpc.key"));
  auto rpc_key = crypto::P256Key::from_pkcs8_pem(rpc_pem.text());
  if (!rpc_key) {
    return fail(std::move(rpc_key).error(), (cert_dir / "rpc.key").string());
  }
  DS_TRY(auto scalar, read_secret(cert_dir / "root-k256.key"));
  auto k256 = crypto::K256Key::from_scalar(scalar.view());
  if (!k256) {
    return fail(std::move(k256).error(), (cert_dir / "root-k256.key").string());
  }
  return RootKeys{std::move(temp_ca), std::move(root_ca), *std::move(rpc_key), *std::move(k256)};
}

Result<> renew_ca_certificates(const fs::path& cert_dir, RootKeys& keys, std::int64_t now) {
  DS_CHECK(renew(cert_dir / "root-ca.crt", keys.root_ca, root_ca_profile(), now));
  return renew(cert_dir / "tmp-ca.crt", keys.temp_ca, temp_ca_profile(), now);
}

Result<AppSecrets> derive_app_secrets(const RootKeys& keys, ByteView app_id, ByteView instance_id) {
  DS_TRY(auto disk,
         crypto::derive_dh_secret(keys.root_ca.key, {app_id, instance_id, as_bytes("app-disk-crypt-key")}));
  DS_TRY(auto env, crypto::derive_dh_secret(keys.root_ca.key, {app_id, as_bytes("env-encrypt-key")}));
  DS_TRY(auto k256, crypto::derive_k256(keys.k256.scalar().view(), {app_id, as_bytes("app-key")}));
  const auto digest = crypto::keccak256({as_bytes("dstack-kms-issued:"), app_id, k256.public_key()});
  DS_TRY(auto signature, keys.k256.sign_recoverable(digest));
  return AppSecrets{std::move(disk), std::move(env), std::move(k256), signature};
}

Result<EnvPublicKey> derive_env_public_key(const RootKeys& keys, ByteView app_id, std::uint64_t timestamp) {
  constexpr std::string_view k_tag = "dstack-env-encrypt-pubkey:";
  DS_TRY(auto secret, crypto::derive_dh_secret(keys.root_ca.key, {app_id, as_bytes("env-encrypt-key")}));
  EnvPublicKey out;
  DS_TRY(out.key, crypto::x25519_public(secret.view()));
  std::array<std::uint8_t, 8> big_endian{};
  for (std::size_t i = 0; i < big_endian.size(); ++i) {
    big_endian[i] = static_cast<std::uint8_t>(timestamp >> (8 * (big_endian.size() - 1 - i)));
  }
  DS_TRY(out.signature, keys.k256.sign_recoverable(crypto::keccak256({as_bytes(k_tag), app_id, out.key})));
  DS_TRY(out.signature_v1,
         keys.k256.sign_recoverable(crypto::keccak256({as_bytes(k_tag), app_id, big_endian, out.key})));
  return out;
}

Result<crypto::CertificateAuthority> derive_app_ca(const RootKeys& keys, ByteView app_id) {
  DS_TRY(auto key, crypto::derive_p256(keys.root_ca.key, {app_id, as_bytes("app-ca")}));
  auto profile = ca_profile("Dstack App CA", 0);
  profile.extensions = {attest::app_id_extension(app_id), attest::usage_extension(attest::k_usage_app_ca)};
  DS_TRY(auto certificate, crypto::issue(profile, key.public_key(), keys.root_ca));
  return crypto::make_ca(std::move(key), std::move(certificate));
}

}  // namespace dstack::kms
