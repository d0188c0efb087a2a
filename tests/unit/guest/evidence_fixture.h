// Simulated evidence and canned keys for tests.
#pragma once

#include <string>
#include <vector>

#include "attest/simulated.h"
#include "guest/keys.h"

namespace dstack::guest {

inline constexpr const char* k_test_vm_config =
    R"({"os_image_hash":"0101010101010101010101010101010101010101010101010101010101010101"})";

inline attest::SimulatedEvidence make_test_evidence(std::vector<attest::RuntimeEvent> events = {}) {
  return {attest::SimulatedPlatform::from_seed(base::Bytes(32, 7)).value(), k_test_vm_config,
          [events = std::move(events)] { return events; }};
}

// The app k256 key of spec/guest-kms.md section 4.4.
inline constexpr const char* k_test_k256 = "1A2B3C4D5E6F7A8B9C0D1E2F3A4B5C6D7E8F9A0B1C2D3E4F5A6B7C8D9E0F1A2B";

inline AppKeys make_test_keys() {
  AppKeys keys;
  keys.ca_cert_pem = "-----BEGIN CERTIFICATE-----\n";
  keys.ca_spki = {1, 2, 3};
  keys.disk_crypt_key = crypto::Secret(std::size_t{32});
  keys.k256_key = crypto::Secret(*base::from_hex(k_test_k256));
  keys.k256_signature = base::Bytes(65, 9);
  keys.os_image_hash = base::Bytes(32, 1);
  return keys;
}

}  // namespace dstack::guest
