// What install, status and destroy share.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/fs.h"
#include "base/result.h"
#include "cli/command.h"
#include "cli/streams.h"
#include "client/vmm_client.h"
#include "host/layout.h"
#include "host/probe.h"
#include "host/service_manager.h"
#include "host/state.h"

namespace dstack::dstackup {

// The VMM of this installation, with its token. Code::permission when the token cannot be read.
base::Result<client::VmmClient> open_vmm(const host::Layout& layout, const host::InstallState& state);

// The installation's service manager; `may_start`, `supervisor_bin` and `waiting` as in
// ServiceManagerOptions.
base::Result<std::unique_ptr<host::ServiceManager>> open_services(
    const host::Layout& layout, const std::string& instance, bool may_start,
    const std::string& supervisor_bin = {}, std::function<void(std::string_view)> waiting = {});

// How many VMs there are and run, for people. Waits two seconds at most.
base::Result<std::string> ask_vmm(const host::Layout& layout, const host::InstallState& state);
// The machine as doctor's checks see it. `services` must outlive it.
host::Probe host_probe(host::ServiceManager& services);

// Keeps other dstackups away from the installation. Code::locked when one is at work.
base::Result<base::FileLock> take_lock(const host::Layout& layout);

// Runs a verb's function: an error is printed (as JSON with `json`) and becomes the exit code.
int report(const cli::Streams& streams, bool json, const std::function<base::Result<int>()>& verb);

}  // namespace dstack::dstackup
