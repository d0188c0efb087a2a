// Which VMM a command talks to, and what an installation on this host supplies (spec/host.md section 2.2).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "client/vmm_client.h"
#include "host/state.h"
#include "net/http.h"

namespace dstack::client {

// The global options as given.
struct AccessOptions {
  std::optional<std::string> host;
  std::optional<std::string> prefix;
  std::optional<std::string> token;
  std::optional<std::string> fingerprint;  // of the certificate of an https --host
};

// What the installation on this host supplies. With --host nothing of it is used, since it may be another
// host's VMM.
struct InstallDefaults {
  std::optional<host::InstallState> state;               // absent: not installed, or --host
  std::optional<std::filesystem::path> state_directory;  // absent with --host
  std::optional<std::string> image;
  std::optional<std::filesystem::path> allowlist;
  std::optional<std::filesystem::path> kms_ca;  // pinned root certificate of its KMS
};
// A corrupt state file is an error (Code::state_corrupt), not "nothing installed".
base::Result<InstallDefaults> install_defaults(const AccessOptions& options);

struct Access {
  net::Endpoint endpoint;
  std::string token;  // "" = none
  TlsPin pin;         // for an https endpoint
  InstallDefaults defaults;
};
inline constexpr const char* k_default_endpoint = "unix:/var/run/dstack/vmm.sock";
// Endpoint: --host, the installation, the default socket if it exists; else Code::not_installed. Token:
// --token, DSTACK_VMM_TOKEN, and without --host the installation's token file; Code::permission when that
// cannot be read. Pin: --fingerprint, DSTACK_VMM_FINGERPRINT, the user's known hosts.
base::Result<Access> resolve_access(const AccessOptions& options);

}  // namespace dstack::client
