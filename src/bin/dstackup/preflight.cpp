#include "preflight.h"

#include <nlohmann/json.hpp>
#include <ostream>

namespace dstack::dstackup {

using base::Result;
using Json = nlohmann::ordered_json;

Result<Preflight> look_at_host(const host::InstallOptions& options, const std::vector<std::string>& ignored) {
  DS_TRY(const auto names, host::parse_ignored_checks(ignored));
  Preflight out;
  DS_TRY(out.facts, host::gather_facts(options));
  const auto probe = host::machine_probe();
  out.checks = host::run_checks({probe, options, out.facts}, host::CheckScope::preflight);
  host::ignore_failures(out.checks, names);
  return out;
}

void print_findings(const cli::Streams& streams, const std::vector<host::CheckResult>& checks) {
  std::vector<host::CheckResult> findings;
  for (const auto& check : checks) {
    if (check.finding.verdict == host::Verdict::warning || check.finding.verdict == host::Verdict::failed) {
      findings.push_back(check);
    }
  }
  streams.err << host::checks_as_text(findings) << std::flush;
}

std::string with_checks_as_text(const std::string& plan, const std::vector<host::CheckResult>& checks) {
  return "preflight\n" + host::checks_as_text(checks) + "\n" + plan;
}

std::string with_checks_as_json(const std::string& plan, const std::vector<host::CheckResult>& checks) {
  auto json = Json::parse(plan, nullptr, /*allow_exceptions=*/false);
  json["preflight"] = Json::parse(host::checks_as_json(checks));
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace dstack::dstackup
