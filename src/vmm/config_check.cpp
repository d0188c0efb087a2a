#include "base/format.h"
#include "vmm/config.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;

Result<> check_servable(const Config& config) {
  if (config.platform != Platform::simulated) {
    return fail(Code::unsupported,
                base::format("launching VMs on platform {} is not supported by this version",
                             to_string(config.platform)),
                "set [cvm] platform = \"simulated\"");
  }
  if (config.mock_attestation_seed.empty()) {
    return fail(Code::vmm_config, "platform simulated has no seed for its evidence",
                "set [cvm.tee_simulator] mock_attestation_seed_file");
  }
  if (config.auth.enabled && config.auth.tokens.empty()) {
    return fail(Code::vmm_config, "[auth] is enabled without a token, which would deny every request",
                "set [auth] token_file");
  }
  if (!config.address.loopback()) {
    return fail(Code::vmm_config,
                base::format("{} can be reached from the network, where tokens must not go in clear text",
                             config.address.to_string()),
                "listen on 127.0.0.1, and name the network address in [expose] with tls_cert and tls_key");
  }
  if (config.expose && !config.auth.enabled) {
    return fail(Code::vmm_config,
                base::format("{} can be reached from the network and [auth] is not enabled",
                             config.expose.address.to_string()),
                "enable [auth] with a token_file, or take [expose] out");
  }
  return {};
}

}  // namespace dstack::vmm
