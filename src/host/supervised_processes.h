// The processes of an installation's built-in supervisor, found without asking it: by what they were started
// with. For when its socket is gone, when it hangs, or when it was killed and a service stayed.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/layout.h"

namespace dstack::host {

struct SupervisedProcesses {
  struct Service {
    std::string name;
    pid_t pid = 0;
  };
  std::vector<pid_t> supervisors;  // more than one only while one is being started
  std::vector<Service> services;   // their main processes and what these started with their environment

  bool empty() const { return supervisors.empty() && services.empty(); }
  bool has_service(const std::string& name) const;
  // "dstackup supervise (pid 7), dstack-vmm (pid 9)"
  std::string text() const;
};

// Only processes of this user that see the same directories. Empty where /proc cannot be read.
SupervisedProcesses find_supervised(const Layout& layout);

// What a service's environment names its installation and itself with: "DSTACK_SERVICE_LOG=<its log>".
std::string service_mark(const std::filesystem::path& log_file);

struct EndLimits {
  std::chrono::milliseconds supervisor{10'000};  // which stops its services in an orderly way
  std::chrono::milliseconds services{10'000};
  std::chrono::milliseconds killed{5'000};
};
// Ends them, the supervisor first: SIGTERM, and SIGCONT for one that was stopped, then SIGKILL. VMs are none
// of them. `waiting` is called often meanwhile. Code::timeout names those that are still there after that.
base::Result<> end_supervised(const Layout& layout, const std::function<void(std::string_view)>& waiting = {},
                              const EndLimits& limits = {});

}  // namespace dstack::host
