#include "client/access.h"

#include <cstdlib>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "client/known_hosts.h"
#include "host/layout.h"
#include "host/tls_identity.h"
#include "host/token.h"

namespace dstack::client {
namespace {

using base::Code;
namespace fs = std::filesystem;

// --token, the environment, then the installation's file. A blank --token switches the environment off.
base::Result<std::string> resolve_token(const AccessOptions& options, const InstallDefaults& defaults) {
  if (options.token) {
    if (const auto token = base::trim(*options.token); !token.empty()) {
      return std::string(token);
    }
  } else if (const char* environment = std::getenv("DSTACK_VMM_TOKEN")) {
    if (const auto token = base::trim(environment); !token.empty()) {
      return std::string(token);
    }
  }
  if (!defaults.state || defaults.state->client_token_path.empty()) {
    return std::string();
  }
  auto token = host::read_token(defaults.state->client_token_path);
  if (!token) {
    base::Error error = std::move(token).error();
    if (error.code != Code::parse) {
      error.fix = error.code == Code::permission
                      ? "run the command with sudo, or give the token with DSTACK_VMM_TOKEN"
                      : "run \"dstackup install\" again, or give the token with DSTACK_VMM_TOKEN";
    }
    return base::fail(std::move(error), "cannot read the VMM's token");
  }
  return token;
}

// "192.0.2.1:9080"
std::string authority(const net::Endpoint& endpoint) {
  const bool v6 = endpoint.host.find(':') != std::string::npos;
  return base::format("{}{}{}:{}", v6 ? "[" : "", endpoint.host, v6 ? "]" : "", endpoint.port);
}

// One that was given is kept once the VMM has proved it.
base::Result<TlsPin> resolve_pin(const AccessOptions& options, const net::Endpoint& endpoint) {
  TlsPin pin;
  if (endpoint.kind != net::Endpoint::Kind::tls) {
    if (options.fingerprint) {
      return base::fail(Code::usage, "--fingerprint is for a VMM that is reached over https",
                        "write --host https://ADDRESS:PORT");
    }
    return pin;
  }
  const auto file = KnownHosts::default_path();
  const char* environment = std::getenv("DSTACK_VMM_FINGERPRINT");
  if (options.fingerprint || (environment != nullptr && *environment != '\0')) {
    DS_TRY(pin.fingerprint,
           host::parse_fingerprint(options.fingerprint ? *options.fingerprint : environment));
    if (options.fingerprint && file) {
      pin.on_proved = [file = *file, where = authority(endpoint), fingerprint = pin.fingerprint] {
        const KnownHosts known(file);
        const auto stored = known.find(where);
        if (stored && *stored == fingerprint) {
          return;
        }
        if (const auto kept = known.remember(where, fingerprint); !kept) {
          base::log_warn(base::format("the fingerprint was not kept: {}", kept.error().what()));
        }
      };
    }
    return pin;
  }
  if (file) {
    DS_TRY(const auto known, KnownHosts(*file).find(authority(endpoint)));
    pin.fingerprint = known.value_or("");
  }
  return pin;
}

std::optional<std::string> non_empty(const std::string& text) {
  return text.empty() ? std::nullopt : std::optional(text);
}

}  // namespace

base::Result<InstallDefaults> install_defaults(const AccessOptions& options) {
  InstallDefaults out;
  if (options.host) {
    return out;
  }
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  out.state_directory = layout.state;
  DS_TRY(out.state, host::load_state(layout.state_file()));
  if (out.state) {
    if (!out.state->state_dir.empty()) {
      out.state_directory = out.state->state_dir;
    }
    out.image = non_empty(out.state->image.value_or(""));
    if (const auto allowlist = non_empty(out.state->allowlist_path)) {
      out.allowlist = *allowlist;
    }
    if (const auto ca = non_empty(out.state->kms_ca_cert)) {
      out.kms_ca = *ca;
    }
  }
  return out;
}

base::Result<Access> resolve_access(const AccessOptions& options) {
  Access access;
  DS_TRY(access.defaults, install_defaults(options));
  std::string endpoint;
  if (options.host) {
    endpoint = *options.host;
  } else if (access.defaults.state && !access.defaults.state->client_url.empty()) {
    endpoint = access.defaults.state->client_url;
  } else {
    std::error_code ignored;
    const fs::path socket = fs::path(std::string_view(k_default_endpoint).substr(5));
    if (options.prefix || !fs::exists(socket, ignored)) {
      return base::fail(Code::not_installed,
                        options.prefix ? base::format("nothing is installed at {}", *options.prefix)
                                       : std::string("dstack is not installed on this host"),
                        "run \"dstackup install\", name an installation with --prefix, or a VMM with --host");
    }
    endpoint = k_default_endpoint;
  }
  DS_TRY(access.endpoint, net::Endpoint::parse(endpoint));
  DS_TRY(access.token, resolve_token(options, access.defaults));
  DS_TRY(access.pin, resolve_pin(options, access.endpoint));
  return access;
}

}  // namespace dstack::client
