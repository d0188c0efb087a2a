// The plan carried out: steps as values, each journaled before it acts, each a no-op when its result is there
// already.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/install_plan.h"
#include "host/journal.h"
#include "host/service_manager.h"

namespace dstack::host {

struct InstallStep {
  std::string name;
  std::string why;
  std::vector<JournalEntry> creates;
  // What apply() would find to do, worked out without touching anything; empty = nothing.
  std::function<std::string()> pending;
  // True when something changed. A failure leaves what earlier steps made: a later install goes on from
  // there.
  std::function<base::Result<bool>()> apply;
};

// What the steps act through. Plan and services must outlive them.
struct InstallContext {
  InstallPlan& plan;
  ServiceManager& services;
  // Does the service do its work? One that hangs is up for its manager. Not set: it does.
  std::function<bool(const std::string& unit)> answers = {};
};

// Directories, token, simulated TEE, allow-list, configurations, state file, both services. The KMS comes
// after them and is the caller's: it is made through the VMM's API.
std::vector<InstallStep> install_steps(InstallContext& context);

// kms.toml, as it is kept on the host and measured into the KMS.
std::string kms_configuration(const InstallPlan& plan);

// Journals what the step creates, then applies it.
base::Result<bool> run_step(const InstallStep& step, Journal& journal);

// The plan for people and programs: ports, addresses and each step with what it makes, why, and what there is
// to do.
std::string plan_as_text(const InstallPlan& plan, const std::vector<InstallStep>& steps);
// Its guest image, for people.
std::string image_of_plan(const InstallPlan& plan);
std::string plan_as_json(const InstallPlan& plan, const std::vector<InstallStep>& steps);

// The simulated root of trust of this host: seed (64 hex digits, 0600) and root certificate. Kept when both
// are there.
base::Result<bool> ensure_simulated_tee(const Layout& layout);
// Writes unless the file has exactly this content and mode.
base::Result<bool> write_if_different(const std::filesystem::path& path, std::string_view text, mode_t mode);

}  // namespace dstack::host
