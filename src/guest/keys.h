// The app's keys when no KMS gives them, and the form in which they are kept (spec/guest-kms.md section 5.6).
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "attest/evidence.h"
#include "base/result.h"
#include "crypto/x509.h"
#include "guest/kms_client.h"

namespace dstack::guest {

// Keys of this boot and where they come from.
struct BootKeys {
  AppKeys keys;
  std::string provider_event;  // payload of the key-provider event: {"name":"kms","id":"<SPKI hex>"}
  std::string kms_url;         // empty without a KMS
  // Signs the app's certificates when there is no KMS.
  std::optional<crypto::CertificateAuthority> local_ca;
};

using FetchKeys = std::function<base::Result<AppKeys>(const KmsOptions&, attest::EvidenceSource&)>;
// What to do while no KMS answers, which may be booting itself: ask again until `limit` has passed.
struct Patience {
  std::chrono::milliseconds limit{0};
  std::chrono::milliseconds pause{1000};
  std::function<void()> on_wait;  // called before the first pause
};
// Asks the KMSs in order; the first success wins. When all fail, the first one's error is reported, at once
// if a KMS answered at all (Code::connect_failed is what one that does not gives). `base` has everything but
// the URL. Code::guest_keys "No KMS URLs are set" for an empty list.
base::Result<BootKeys> fetch_kms_keys(const std::vector<std::string>& urls, const KmsOptions& base,
                                      attest::EvidenceSource& evidence, const FetchKeys& fetch,
                                      const Patience& patience = {});

// Keys from a seed (32 bytes, random at every boot): CA key, disk key, k256 key. The CA certificate carries
// evidence.
base::Result<BootKeys> derive_seed_keys(base::ByteView seed, attest::EvidenceSource& evidence);

// `.appkeys.json`: disk_crypt_key, env_crypt_key, k256_key, k256_signature, gateway_app_id, ca_cert,
// key_provider.
crypto::Secret keys_to_json(const BootKeys& keys);
// Writes them, 0600.
base::Result<> write_keys(const std::filesystem::path& file, const BootKeys& keys);

}  // namespace dstack::guest
