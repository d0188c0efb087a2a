#include "client/access.h"

#include <cstdlib>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/layout.h"

namespace dstack::client {
namespace {

using base::Code;
namespace fs = std::filesystem;

constexpr std::size_t k_max_token = 4096;

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
  auto text = base::read_file(defaults.state->client_token_path, k_max_token);
  if (!text) {
    base::Error error = std::move(text).error();
    error.fix = error.code == Code::permission
                    ? "run the command with sudo, or give the token with DSTACK_VMM_TOKEN"
                    : "run \"dstackup install\" again, or give the token with DSTACK_VMM_TOKEN";
    return base::fail(std::move(error), "cannot read the VMM's token");
  }
  return std::string(base::trim(*text));
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
  return access;
}

}  // namespace dstack::client
