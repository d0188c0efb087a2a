// The checks of the table in host/doctor.cpp, one function each.
#pragma once

#include <string>
#include <utility>

#include "host/doctor.h"

namespace dstack::host::checks {

inline Finding ok(std::string evidence) {
  return {Verdict::ok, std::move(evidence), {}};
}
inline Finding warning(std::string evidence, std::string fix) {
  return {Verdict::warning, std::move(evidence), std::move(fix)};
}
inline Finding failed(std::string evidence, std::string fix, base::Code code = base::Code::preflight) {
  return {Verdict::failed, std::move(evidence), std::move(fix), code};
}
// With the error's text, fix and code; `fix` when it has none.
Finding failed(const base::Error& error, std::string_view fix);
inline Finding skipped(std::string evidence) {
  return {Verdict::skipped, std::move(evidence), {}};
}

// doctor_machine.cpp
Finding root(const CheckContext& context);
Finding platform(const CheckContext& context);
Finding tdx_cpu(const CheckContext& context);
Finding tdx_kvm(const CheckContext& context);
Finding sgx_devices(const CheckContext& context);
Finding quote_service(const CheckContext& context);
Finding snp_cpu(const CheckContext& context);
Finding snp_kvm(const CheckContext& context);
Finding snp_device(const CheckContext& context);
Finding kvm(const CheckContext& context);
Finding vhost_vsock(const CheckContext& context);
Finding qemu(const CheckContext& context);

// doctor_system.cpp
Finding tools(const CheckContext& context);
Finding memory(const CheckContext& context);
Finding disk(const CheckContext& context);
Finding cgroup(const CheckContext& context);
Finding service_manager(const CheckContext& context);
Finding clock(const CheckContext& context);
Finding ports(const CheckContext& context);
Finding port_policy(const CheckContext& context);
Finding cid_window(const CheckContext& context);
Finding host_api_port(const CheckContext& context);

// doctor_paths.cpp
Finding directories(const CheckContext& context);

// doctor_install.cpp
Finding state_file(const CheckContext& context);
Finding journal(const CheckContext& context);
Finding programs(const CheckContext& context);
Finding version(const CheckContext& context);
Finding image(const CheckContext& context);
Finding image_pin(const CheckContext& context);
Finding kms_image(const CheckContext& context);
Finding simulated_tee(const CheckContext& context);
Finding token(const CheckContext& context);
Finding allow_list(const CheckContext& context);
Finding auth_service(const CheckContext& context);
Finding vmm_service(const CheckContext& context);
Finding vmm_api(const CheckContext& context);
Finding kms(const CheckContext& context);

}  // namespace dstack::host::checks
