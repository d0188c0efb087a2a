// Which accelerator works on this machine.
#pragma once

#include <string>

#include "base/result.h"
#include "host/qemu_version.h"
#include "vmm/config.h"
#include "vmm/qemu_args.h"

namespace dstack::vmm {

using host::parse_qemu_version;
using host::QemuVersion;

struct Machine {
  QemuVersion qemu;
  Accelerator accelerator;
  std::string reason;  // why this accelerator, for the log
};
// Asks QEMU for its version and, unless `choice` settles it, runs a tiny guest under KVM: an openable
// /dev/kvm does not mean that it runs a 64-bit guest (nested and paravirtual hosts). `scratch` is a directory
// for the guest's ROM. With `other_users`, users other than this one have to get at `kvm` too:
// Code::vmm_config when `choice` insists on KVM and they do not.
base::Result<Machine> probe_machine(const std::string& qemu, AcceleratorChoice choice,
                                    const fs::path& scratch, bool other_users,
                                    const fs::path& kvm = "/dev/kvm");

// The 64 KiB probe ROM: enters long mode with paging, takes an exception, and ends QEMU with exit code 33.
std::string probe_rom();

}  // namespace dstack::vmm
