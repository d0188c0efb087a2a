// VMs as transient systemd services: restarting dstack-vmm, whose own service runs in a narrower sandbox,
// leaves them alone.
#pragma once

#include <memory>
#include <string>

#include "host/transient_unit.h"
#include "vmm/vm_process.h"

namespace dstack::vmm {

// "dstack-vm-<vm_id>": the service (without ".service") that a VM runs in.
std::string vm_unit_name(const std::string& vm_id);

// What systemd is asked for, but for the VM's files: a user that exists only as long as the VM runs, no
// capabilities, no devices but the one that is needed, and the limits. The program is this one, which becomes
// QEMU.
host::TransientUnit vm_unit(const ProcessSpec& spec);

// Only where systemd is PID 1. `bus_address` is for tests (host::SystemdOptions::address).
std::unique_ptr<VmLauncher> make_systemd_launcher(std::string bus_address = {});

}  // namespace dstack::vmm
