#include "probe_vmm.h"

#include <nlohmann/json.hpp>
#include <ostream>

#include "base/format.h"
#include "base/log.h"
#include "client/access.h"

namespace dstack::dstackup {

base::Result<int> probe_vmm(const std::string& endpoint, const std::optional<std::string>& fingerprint,
                            bool json, const cli::Streams& streams) {
  client::AccessOptions options;
  options.host = endpoint;
  options.fingerprint = fingerprint;
  DS_TRY(const auto access, client::resolve_access(options));
  const client::VmmClient vmm(access.endpoint, access.token, access.pin);
  DS_TRY(const auto vms, vmm.vms(/*brief=*/true));
  DS_TRY(const auto version, vmm.version());
  if (json) {
    const nlohmann::ordered_json out = {{"endpoint", endpoint},
                                        {"reachable", true},
                                        {"version", version.version()},
                                        {"fingerprint", access.pin.fingerprint},
                                        {"vms", vms.size()}};
    streams.out << out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
  } else {
    streams.out << base::format("vmm: {} => reachable, version {} ({} vms)\n", endpoint,
                                base::escape_control(version.version()), vms.size());
  }
  return cli::k_exit_ok;
}

}  // namespace dstack::dstackup
