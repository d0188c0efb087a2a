// What can be wrong with a host, as a table of checks: `dstackup doctor` runs all of them, install those that
// are about the host before its first side effect. Checks read and never change anything.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "host/install_plan.h"
#include "host/probe.h"

namespace dstack::host {

enum class Verdict { ok, warning, failed, skipped };
std::string_view to_string(Verdict verdict);

struct Finding {
  Verdict verdict = Verdict::ok;
  std::string evidence;                     // what was seen
  std::string fix;                          // one sentence; empty when ok or skipped
  base::Code code = base::Code::preflight;  // of the error when install fails with it
};

// What the checks look at. All three must outlive them.
struct CheckContext {
  const Probe& probe;
  const InstallOptions& options;
  const InstallFacts& facts;
};

struct Check {
  const char* name;   // stable, kebab-case
  const char* about;  // what is checked, for the documentation
  bool preflight;     // install runs it too
  bool ignorable;     // --ignore-preflight-errors may name it: install could go on
  bool slow;          // waits for a process or the network: runs in a thread of its own
  Finding (*run)(const CheckContext& context);
};
std::span<const Check> all_checks();

struct CheckResult {
  std::string name;
  Finding finding;
};
// A service that was restarted by its manager less than so many seconds ago is a warning.
inline constexpr std::int64_t k_recent_restart = 600;

enum class CheckScope { everything, preflight };
// In the order of the table.
std::vector<CheckResult> run_checks(const CheckContext& context, CheckScope scope);
// Only those of these names.
std::vector<CheckResult> run_checks(const CheckContext& context, std::span<const std::string_view> names);

Verdict worst_of(const std::vector<CheckResult>& results);

// The names in "a,b" lists, given any number of times; "all" stands for every ignorable check. Code::usage
// for an unknown name (names the known ones) and for one that cannot be ignored.
base::Result<std::set<std::string>> parse_ignored_checks(const std::vector<std::string>& lists);
// Failures that are named become warnings that say so.
void ignore_failures(std::vector<CheckResult>& results, const std::set<std::string>& ignored);
// An error when a check failed: that check's own when it is the only one, else Code::preflight with all of
// them, only by name when their evidence was `shown` already.
base::Result<> require_no_failure(const std::vector<CheckResult>& results, bool shown = false);

// One or two lines for each result: verdict, name and evidence in columns, the fix below. Skipped checks with
// the same reason share a line.
std::string checks_as_text(const std::vector<CheckResult>& results);
// A JSON array of {"name", "verdict", "evidence", "fix"}.
std::string checks_as_json(const std::vector<CheckResult>& results);
// The table as Markdown, for docs/doctor.md.
std::string checks_as_markdown();

// What doctor looks at when there are no install flags: those of the installation, if there is one.
InstallOptions options_of_installation(const InstallFacts& facts, InstallOptions options);

}  // namespace dstack::host
