// The last stage of install: a CVM with the KMS, made through the VMM's API, ready only when it proves who it
// is.
#pragma once

#include <chrono>

#include "base/result.h"
#include "cli/progress.h"
#include "client/vmm_client.h"
#include "host/install_plan.h"
#include "host/journal.h"

namespace dstack::dstackup {

struct KmsStage {
  host::InstallPlan& plan;  // its state gets the VM's id and the pin, and is saved
  const client::VmmClient& vmm;
  host::Journal& journal;
  cli::Progress& progress;
  std::chrono::seconds limit{600};  // a KMS in an emulated VM on a busy machine takes minutes
};

// Finds, starts or creates the KMS CVM, waits until it answers with evidence that verifies, pins its root CA
// (first time) or checks it (later). True when anything changed. After a failure the VM is kept; the next
// install goes on with it, or replaces it when it never became ready.
base::Result<bool> bring_up_kms(const KmsStage& stage);

}  // namespace dstack::dstackup
