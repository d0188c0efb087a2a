#include "guest/keys.h"

#include <nlohmann/json.hpp>
#include <thread>

#include "attest/report_data.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "crypto/kdf.h"

namespace dstack::guest {

namespace {

using base::Code;
using base::Result;

std::string provider_json(std::string_view name, base::ByteView id) {
  nlohmann::ordered_json out;
  out["name"] = name;
  out["id"] = base::to_hex(id);
  return out.dump();
}

// The error is the first one of a KMS that answered; only where none did, that nothing answers.
Result<BootKeys> ask_in_turn(const std::vector<std::string>& urls, const KmsOptions& base_options,
                             attest::EvidenceSource& evidence, const FetchKeys& fetch, bool quiet) {
  std::optional<base::Error> first;
  for (const auto& url : urls) {
    auto options = base_options;
    options.url = url;
    auto keys = fetch(options, evidence);
    if (keys && keys->disk_crypt_key.empty()) {
      keys = base::fail(Code::guest_keys, "Failed to get valid key phrase from KMS");
    }
    if (keys) {
      BootKeys out;
      out.provider_event = provider_json("kms", keys->ca_spki);
      out.kms_url = url;
      out.keys = std::move(*keys);
      return out;
    }
    const bool answered = keys.error().code != Code::connect_failed;
    if (answered || !quiet) {
      base::log_warn(base::format("the KMS {} gives no keys: {}", url, keys.error().what()));
    }
    if (!first || (answered && first->code == Code::connect_failed)) {
      first = std::move(keys).error();
    }
  }
  return std::unexpected(std::move(*first));
}

}  // namespace

Result<BootKeys> fetch_kms_keys(const std::vector<std::string>& urls, const KmsOptions& base_options,
                                attest::EvidenceSource& evidence, const FetchKeys& fetch,
                                const Patience& patience) {
  if (urls.empty()) {
    return base::fail(Code::guest_keys, "No KMS URLs are set");
  }
  const auto deadline = std::chrono::steady_clock::now() + patience.limit;
  for (bool waited = false;; waited = true) {
    auto keys = ask_in_turn(urls, base_options, evidence, fetch, /*quiet=*/waited);
    if (keys || keys.error().code != Code::connect_failed ||
        std::chrono::steady_clock::now() + patience.pause > deadline) {
      return keys ? std::move(keys) : base::fail(std::move(keys).error(), "failed to get app keys");
    }
    if (!waited && patience.on_wait) {
      patience.on_wait();
    }
    std::this_thread::sleep_for(patience.pause);
  }
}

Result<BootKeys> derive_seed_keys(base::ByteView seed, attest::EvidenceSource& evidence) {
  const auto scalar_of = [&](std::string_view context) {
    return crypto::derive_key(seed, {base::as_bytes(context)});
  };
  DS_TRY(const auto ca_scalar, scalar_of("app-key"));
  DS_TRY(auto ca_key, crypto::P256Key::from_scalar(ca_scalar.view()));
  DS_TRY(const auto disk_scalar, scalar_of("app-disk-key"));
  DS_TRY(const auto disk_key, crypto::P256Key::from_scalar(disk_scalar.view()));
  DS_TRY(const auto k256, crypto::derive_k256(seed, {base::as_bytes("app-k256-key")}));

  crypto::CertificateProfile profile;
  profile.common_name = "App Root Cert";
  profile.ca_path_length = 1;
  DS_TRY(const auto attestation, evidence.attest(attest::ra_tls_report_data(ca_key.spki())));
  DS_TRY(auto extension, attest::attestation_extension(attestation));
  profile.extensions.push_back(std::move(extension));
  DS_TRY(auto certificate, crypto::self_sign(profile, ca_key));

  BootKeys out;
  out.keys.ca_cert_pem = certificate.pem();
  out.keys.ca_spki = ca_key.spki();
  const auto disk_hash = crypto::sha256(disk_key.pkcs8_der().view());
  out.keys.disk_crypt_key = crypto::Secret(base::ByteView(disk_hash));
  out.keys.k256_key = k256.scalar().clone();
  out.provider_event = provider_json("none", {});
  DS_TRY(auto ca, crypto::make_ca(std::move(ca_key), std::move(certificate)));
  out.local_ca = std::move(ca);
  return out;
}

crypto::Secret keys_to_json(const BootKeys& boot) {
  const auto& keys = boot.keys;
  nlohmann::ordered_json provider;
  if (boot.local_ca) {
    provider["None"]["key"] = std::string(boot.local_ca->key.pkcs8_pem().text());
  } else {
    provider["Kms"]["url"] = boot.kms_url;
    provider["Kms"]["pubkey"] = base::to_hex(keys.ca_spki);
  }
  nlohmann::ordered_json out;
  out["disk_crypt_key"] = base::to_hex(keys.disk_crypt_key.view());
  out["env_crypt_key"] = base::to_hex(keys.env_crypt_key.view());
  out["k256_key"] = base::to_hex(keys.k256_key.view());
  out["k256_signature"] = base::to_hex(keys.k256_signature);
  out["gateway_app_id"] = keys.gateway_app_id;
  out["ca_cert"] = keys.ca_cert_pem;
  out["key_provider"] = std::move(provider);
  const auto text = out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return crypto::Secret(base::as_bytes(text));
}

Result<> write_keys(const std::filesystem::path& file, const BootKeys& keys) {
  return base::write_file_atomic(file, keys_to_json(keys).text(), {.mode = 0600, .force_mode = true});
}

}  // namespace dstack::guest
