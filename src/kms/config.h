// kms.toml (spec/guest-kms.md section 1.1), as far as this version has what the keys configure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "attest/verifier.h"
#include "base/log.h"
#include "base/result.h"

namespace dstack::kms {

struct Config {
  std::string address = "0.0.0.0";
  std::uint16_t port = 8000;
  unsigned workers = 8;
  base::LogLevel log_level = base::LogLevel::info;
  std::filesystem::path cert_dir = "/etc/kms/certs";
  bool enforce_self_authorization = true;
  bool attest_rpc_cert = true;
  bool metrics = true;
  std::string webhook_url = "http://auth-api:8000";
  bool onboard = true;
  // Name or IP address that new keys are made for without asking, and that the server's certificate carries.
  std::string auto_bootstrap_domain;
  attest::TrustAnchors anchors;
};

// Unknown keys are ignored, except under core.attestation.root_ca. Keys that switch on what this version
// lacks are Code::kms_config. Reads the root certificate that the text names.
base::Result<Config> parse_config(std::string_view toml);
base::Result<Config> load_config(const std::filesystem::path& file);

// ASCII, at most 253 characters, labels of 1 to 63 letters, digits or '-', not at their ends.
base::Result<> check_domain(std::string_view domain);

}  // namespace dstack::kms
