#include <chrono>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/format.h"
#include "cli/progress.h"
#include "context.h"
#include "host/doctor.h"
#include "verbs.h"

namespace dstack::dstackup {

using base::Result;
using host::Verdict;
using Json = nlohmann::ordered_json;

namespace {

constexpr int k_exit_warnings = 3;

struct Flags {
  host::InstallOptions options;
  bool json = false;
};

std::size_t count(const std::vector<host::CheckResult>& results, Verdict verdict) {
  std::size_t out = 0;
  for (const auto& result : results) {
    out += result.finding.verdict == verdict ? 1U : 0U;
  }
  return out;
}

void print_json(const cli::Streams& streams, const host::InstallFacts& facts,
                const std::vector<host::CheckResult>& results) {
  Json json;
  json["worst"] = host::to_string(host::worst_of(results));
  json["installed"] = facts.state.has_value();
  json["platform"] = facts.platform ? Json(host::to_string(*facts.platform)) : Json(nullptr);
  json["prefix"] = facts.layout.prefix ? Json(facts.layout.prefix->string()) : Json(nullptr);
  json["counts"] = Json::object();
  for (const auto verdict : {Verdict::ok, Verdict::warning, Verdict::failed, Verdict::skipped}) {
    json["counts"][std::string(host::to_string(verdict))] = count(results, verdict);
  }
  json["checks"] = Json::parse(host::checks_as_json(results));
  streams.out << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

void print_text(const cli::Streams& streams, const host::InstallFacts& facts,
                const std::vector<host::CheckResult>& results, const std::string& elapsed) {
  streams.out << host::checks_as_text(results);
  streams.out << base::format("{} ok, {} warnings, {} failed, {} skipped, in {}", count(results, Verdict::ok),
                              count(results, Verdict::warning), count(results, Verdict::failed),
                              count(results, Verdict::skipped), elapsed)
              << (facts.root ? "\n" : "; run it as root for all checks\n");
}

// Without the right to do it, being no root is no fault of the host.
void excuse_missing_root(std::vector<host::CheckResult>& results) {
  for (auto& [name, finding] : results) {
    if (name == "root" && finding.verdict == Verdict::failed) {
      finding = {Verdict::skipped, "needs root", {}};
    }
  }
}

Result<int> doctor(const Flags& flags, const cli::Streams& streams) {
  const cli::Progress progress(streams, /*quiet=*/true);
  DS_TRY(const auto facts, host::gather_facts(flags.options));
  const auto options = host::options_of_installation(facts, flags.options);
  const auto& instance = facts.state ? facts.state->instance : facts.instance;
  DS_TRY(const auto services, open_services(facts.layout, instance, /*may_start=*/false));
  const auto probe = host_probe(*services);
  auto results = host::run_checks({probe, options, facts}, host::CheckScope::everything);
  excuse_missing_root(results);
  if (flags.json) {
    print_json(streams, facts, results);
  } else {
    print_text(streams, facts, results, cli::format_seconds(progress.elapsed()));
  }
  switch (host::worst_of(results)) {
    case Verdict::failed:
      return cli::k_exit_failure;
    case Verdict::warning:
      return k_exit_warnings;
    default:
      return cli::k_exit_ok;
  }
}

}  // namespace

void add_doctor(cli::Command& program, const cli::Streams& streams) {
  auto flags = std::make_shared<Flags>();
  auto& verb = program.verb("doctor",
                            "what is wrong with this host and how to mend it; changes nothing. Exit code 0: "
                            "all is well, 1: something "
                            "failed, 3: only warnings");
  auto& o = flags->options;
  verb.option("--prefix", o.prefix, "the installation below this directory");
  verb.option("--instance", o.instance, "suffix of the services' names", "the installed one");
  verb.option("--platform", o.platform, "auto, tdx, amd-sev-snp or simulated",
              "the installed one, else auto");
  verb.values("--platform", cli::Values::choice({"auto", "tdx", "amd-sev-snp", "simulated"}));
  verb.option("--qemu", o.qemu, "QEMU program", "the installed one");
  verb.option("--programs-from", o.programs_from, "directory of dstack-vmm and dstack-auth",
              "the installed ones, else dstackup's own");
  verb.values("--programs-from", cli::Values::directory());
  verb.flag("-j,--json", flags->json, "print JSON");
  verb.examples(
      "dstackup doctor\n"
      "dstackup doctor --platform simulated\n"
      "dstackup doctor --json --prefix /opt/dstack-test");
  verb.action(
      [flags, &streams] { return report(streams, flags->json, [&] { return doctor(*flags, streams); }); });
}

}  // namespace dstack::dstackup
