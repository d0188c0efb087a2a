#include "host/installed_services.h"

#include "base/fs.h"
#include "crypto/hash.h"
#include "host/named_programs.h"
#include "host/render.h"
#include "host/tls_identity.h"

namespace dstack::host {

using base::Result;

namespace {

void add_mark(const std::string& named, ServiceSpec& spec) {
  if (!named.empty()) {
    spec.environment.push_back("DSTACK_PROGRAM_SEEN=" + program_mark(named));
  }
}

}  // namespace

ServiceSpec installed_auth_service(const Layout& layout, const InstallState& state) {
  auto spec = auth_service(layout, state.auth_unit, state.auth_program(), state.auth_port);
  add_mark(state.auth_bin, spec);
  return spec;
}

Result<ServiceSpec> installed_vmm_service(const Layout& layout, const InstallState& state,
                                          const std::string& configuration) {
  auto spec = vmm_service(layout, state.vmm_unit, state.auth_unit, state.vmm_program());
  add_mark(state.vmm_bin, spec);
  if (layout.image_path) {
    // Links are followed inside the sandbox, where their end has to be too.
    std::error_code error;
    const auto real = std::filesystem::canonical(*layout.image_path, error);
    if (!error && real != *layout.image_path) {
      spec.readable_paths.push_back(real.string());
    }
  }
  // One digest of both, so that it says nothing about the token.
  DS_TRY(const auto token, base::read_file(layout.token_file(), 4096));
  spec.environment.push_back("DSTACK_READ_SHA256=" + crypto::sha256_hex(configuration + token));
  if (!state.expose.empty()) {
    DS_TRY(const auto fingerprint, read_fingerprint(layout.tls_cert()));
    spec.environment.push_back("DSTACK_CERTIFICATE=" + fingerprint);
  }
  return spec;
}

}  // namespace dstack::host
