// What install can know before its first side effect.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/streams.h"
#include "host/doctor.h"

namespace dstack::dstackup {

struct Preflight {
  host::InstallFacts facts;
  std::vector<host::CheckResult> checks;
};
// Gathers the facts and runs the checks. Failures that the lists `ignored` name are warnings.
base::Result<Preflight> look_at_host(const host::InstallOptions& options,
                                     const std::vector<std::string>& ignored);

// What is not as it should be, on `err`.
void print_findings(const cli::Streams& streams, const std::vector<host::CheckResult>& checks);

// The text or JSON of a plan together with the checks.
std::string with_checks_as_text(const std::string& plan, const std::vector<host::CheckResult>& checks);
std::string with_checks_as_json(const std::string& plan, const std::vector<host::CheckResult>& checks);

}  // namespace dstack::dstackup
