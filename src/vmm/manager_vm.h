// One VM in memory; private to the manager.
#pragma once

#include "vmm/manager.h"

namespace dstack::vmm {

struct VmManager::Vm {
  Vm(fs::path directory, const AutoRestartPolicy& policy) : files(std::move(directory)), restart(policy) {}

  VmFiles files;
  Manifest manifest;
  std::string token;
  crypto::Hash256 token_hash{};
  std::string image_version;
  std::string instance_id;
  RestartPolicy restart;
  bool started = false;
  bool removing = false;
  bool start_due = false;  // at the next tick, without back-off
  bool needs_kms = false;  // its app gets keys
  bool kill_due = false;
  bool shutdown_requested = false;  // an end is not a failure
  std::optional<ProcessRecord> process;
  Progress progress;
  std::deque<VmEvent> events;
  std::optional<base::Error> broken;
};

}  // namespace dstack::vmm
