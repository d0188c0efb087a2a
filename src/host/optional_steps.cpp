#include "host/optional_steps.h"

#include "base/format.h"
#include "host/tls_identity.h"

namespace dstack::host {

using base::Result;
using Kind = JournalEntry::Kind;

InstallStep expose_step(InstallContext& context) {
  const auto& plan = context.plan;
  const auto key = plan.layout.tls_key();
  const auto certificate = plan.layout.tls_cert();
  const auto ip = plan.expose;
  return {
      "TLS certificate",
      base::format("the VMM's API is served on {} over TLS, with the token; clients pin this certificate",
                   plan.state.exposed_url()),
      {{Kind::file, key.string(), "private key"}, {Kind::file, certificate.string(), "certificate"}},
      [key, certificate, ip] { return std::string(has_tls_identity(key, certificate, ip) ? "" : "make"); },
      [key, certificate, ip]() -> Result<bool> { return ensure_tls_identity(key, certificate, ip); }};
}

InstallStep key_provider_step(InstallContext& context) {
  const auto& wanted = context.plan.key_provider;
  return {"SGX key provider",
          base::format("gives the KMS's VM the key of its disk, on {}:{}", wanted.address, wanted.port),
          {{Kind::compose, wanted.project, "SGX key provider"}},
          // Docker compares what runs with the file; asking it is what starting it does.
          [] { return std::string("start, unless it runs"); },
          [wanted]() -> Result<bool> {
            DS_CHECK(start_key_provider(wanted));
            return false;
          }};
}

}  // namespace dstack::host
