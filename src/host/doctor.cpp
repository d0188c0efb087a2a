#include "host/doctor.h"

#include <algorithm>
#include <array>
#include <future>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"
#include "host/doctor_checks.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr bool k_preflight = true;
constexpr bool k_doctor_only = false;
constexpr bool k_ignorable = true;
constexpr bool k_required = false;
constexpr bool k_quick = false;
constexpr bool k_slow = true;

constexpr std::array k_checks = {
    Check{"root", "dstackup runs as root", k_preflight, k_required, k_quick, checks::root},
    Check{"platform", "there is a TEE platform that this version can use, or `simulated` was asked for",
          k_preflight, k_required, k_quick, checks::platform},
    Check{"tdx-cpu", "TDX: the processor offers it (`tdx_host_platform` in /proc/cpuinfo)", k_preflight,
          k_ignorable, k_quick, checks::tdx_cpu},
    Check{"tdx-kvm", "TDX: KVM has it switched on (/sys/module/kvm_intel/parameters/tdx)", k_preflight,
          k_ignorable, k_quick, checks::tdx_kvm},
    Check{"sgx-devices", "TDX: /dev/sgx_enclave and /dev/sgx_provision are there", k_preflight, k_ignorable,
          k_quick, checks::sgx_devices},
    Check{"quote-service", "TDX: the quote generation service runs and vsock is there to reach it",
          k_preflight, k_ignorable, k_quick, checks::quote_service},
    Check{"snp-cpu", "SEV-SNP: the processor offers it (`sev_snp` in /proc/cpuinfo)", k_preflight,
          k_ignorable, k_quick, checks::snp_cpu},
    Check{"snp-kvm", "SEV-SNP: KVM has it switched on (/sys/module/kvm_amd/parameters/sev_snp)", k_preflight,
          k_ignorable, k_quick, checks::snp_kvm},
    Check{"snp-device", "SEV-SNP: /dev/sev is there", k_preflight, k_ignorable, k_quick, checks::snp_device},
    Check{"kvm", "/dev/kvm opens, and 64-bit guests run under it as far as the VMM has tried", k_preflight,
          k_ignorable, k_quick, checks::kvm},
    Check{"vhost-vsock", "TDX, SEV-SNP: /dev/vhost-vsock opens", k_preflight, k_ignorable, k_quick,
          checks::vhost_vsock},
    Check{"qemu", "QEMU is there and new enough for the platform", k_preflight, k_required, k_slow,
          checks::qemu},
    Check{"tools", "qemu-img is there", k_preflight, k_ignorable, k_quick, checks::tools},
    Check{"memory", "enough memory is available", k_preflight, k_ignorable, k_quick, checks::memory},
    Check{"disk", "enough space is free where VMs and images are kept", k_preflight, k_ignorable, k_quick,
          checks::disk},
    Check{"directories", "nobody but root can change the installation's directories or those above them",
          k_preflight, k_ignorable, k_quick, checks::directories},
    Check{"cgroup", "cgroup v2 is mounted, so that nothing escapes a service's stop", k_preflight,
          k_ignorable, k_quick, checks::cgroup},
    Check{"service-manager", "systemd can be reached where it is PID 1, else the built-in supervisor is used",
          k_preflight, k_ignorable, k_quick, checks::service_manager},
    Check{"clock", "the clock is not wrong", k_preflight, k_ignorable, k_quick, checks::clock},
    Check{"state-file", "the record of what is installed can be read", k_preflight, k_required, k_quick,
          checks::state_file},
    Check{"journal", "the installation journal can be read", k_doctor_only, k_required, k_quick,
          checks::journal},
    Check{"programs", "dstack-vmm and dstack-auth are there", k_preflight, k_required, k_quick,
          checks::programs},
    Check{"version", "dstackup and the installed programs are of one version", k_doctor_only, k_required,
          k_quick, checks::version},
    Check{"ports", "the TCP ports of our services are ours or free, and differ", k_preflight, k_ignorable,
          k_quick, checks::ports},
    Check{"port-policy", "the KMS's port lies inside the VMM's port policy", k_preflight, k_required, k_quick,
          checks::port_policy},
    Check{"cid-window", "no other VM manager uses our VMs' vsock addresses", k_preflight, k_ignorable,
          k_quick, checks::cid_window},
    Check{"host-api-port", "no other VM manager uses the host API's port", k_preflight, k_ignorable, k_quick,
          checks::host_api_port},
    Check{"image", "there is a guest image, and it has a digest to pin", k_preflight, k_required, k_quick,
          checks::image},
    Check{"image-pin", "the installed guest image is the pinned one, and its files match its digest",
          k_doctor_only, k_required, k_slow, checks::image_pin},
    Check{"kms-image", "a volume of this host holds the KMS's container image", k_preflight, k_required,
          k_quick, checks::kms_image},
    Check{"simulated-tee", "simulated: the seed is there and for root only", k_doctor_only, k_required,
          k_quick, checks::simulated_tee},
    Check{"token", "the VMM's token is there and for root only", k_doctor_only, k_required, k_quick,
          checks::token},
    Check{"allow-list", "the allow-list is valid, safe, and names the pinned image", k_doctor_only,
          k_required, k_quick, checks::allow_list},
    Check{"auth-service", "dstack-auth runs and says that it is healthy", k_doctor_only, k_required, k_slow,
          checks::auth_service},
    Check{"vmm-service", "dstack-vmm runs", k_doctor_only, k_required, k_slow, checks::vmm_service},
    Check{"vmm-api", "the VMM answers to the installation's token", k_doctor_only, k_required, k_slow,
          checks::vmm_api},
    Check{"kms", "the KMS answers, with evidence that verifies, under the root certificate kept at install",
          k_doctor_only, k_required, k_slow, checks::kms},
};

std::string known_names() {
  std::string out;
  for (const auto& check : k_checks) {
    if (check.preflight && check.ignorable) {
      out += (out.empty() ? "" : ", ") + std::string(check.name);
    }
  }
  return out;
}

Result<> add_ignored(std::string_view name, std::set<std::string>& out) {
  const bool all = name == "all";
  const auto* check = std::ranges::find(k_checks, name, &Check::name);
  if (!all && (check == k_checks.end() || !check->preflight)) {
    return base::fail(Code::usage,
                      base::format("--ignore-preflight-errors: there is no check '{}' to ignore", name),
                      "use all, or some of " + known_names());
  }
  if (!all && !check->ignorable) {
    return base::fail(
        Code::usage,
        base::format("--ignore-preflight-errors: the check '{}' cannot be ignored, install could "
                     "not go on without what it looks for",
                     name),
        "use all, or some of " + known_names());
  }
  for (const auto& each : k_checks) {
    if (all ? each.preflight && each.ignorable : &each == check) {
      out.insert(each.name);
    }
  }
  return {};
}

template <class Wanted>
std::vector<CheckResult> run_those(const CheckContext& context, const Wanted& wanted) {
  std::vector<CheckResult> out;
  std::vector<std::pair<std::size_t, std::future<Finding>>> waiting;
  std::vector<std::pair<std::size_t, const Check*>> now;
  for (const auto& check : k_checks) {
    if (!wanted(check)) {
      continue;
    }
    if (check.slow) {
      waiting.emplace_back(out.size(), std::async(std::launch::async, check.run, std::cref(context)));
    } else {
      now.emplace_back(out.size(), &check);
    }
    out.push_back({check.name, {}});
  }
  for (const auto& [index, check] : now) {
    out[index].finding = check->run(context);
  }
  for (auto& [index, finding] : waiting) {
    out[index].finding = finding.get();
  }
  return out;
}

}  // namespace

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok:
      return "ok";
    case Verdict::warning:
      return "warning";
    case Verdict::failed:
      return "failed";
    case Verdict::skipped:
      return "skipped";
  }
  return "";
}

Finding checks::failed(const base::Error& error, std::string_view fix) {
  return {Verdict::failed, error.what(), error.fix.empty() ? std::string(fix) : error.fix, error.code};
}

std::span<const Check> all_checks() {
  return k_checks;
}

std::vector<CheckResult> run_checks(const CheckContext& context, CheckScope scope) {
  return run_those(context,
                   [&](const Check& check) { return scope == CheckScope::everything || check.preflight; });
}

std::vector<CheckResult> run_checks(const CheckContext& context, std::span<const std::string_view> names) {
  return run_those(context, [&](const Check& check) {
    return std::ranges::find(names, std::string_view(check.name)) != names.end();
  });
}

Verdict worst_of(const std::vector<CheckResult>& results) {
  auto worst = Verdict::ok;
  for (const auto& result : results) {
    if (result.finding.verdict == Verdict::failed) {
      return Verdict::failed;
    }
    if (result.finding.verdict == Verdict::warning) {
      worst = Verdict::warning;
    }
  }
  return worst;
}

Result<std::set<std::string>> parse_ignored_checks(const std::vector<std::string>& lists) {
  std::set<std::string> out;
  for (const std::string_view list : lists) {
    for (std::size_t start = 0; start <= list.size();) {
      const auto end = std::min(list.find(',', start), list.size());
      DS_CHECK(add_ignored(base::trim(list.substr(start, end - start)), out));
      start = end + 1;
    }
  }
  return out;
}

void ignore_failures(std::vector<CheckResult>& results, const std::set<std::string>& ignored) {
  for (auto& [name, finding] : results) {
    if (finding.verdict == Verdict::failed && ignored.contains(name)) {
      finding.verdict = Verdict::warning;
      finding.evidence += " (ignored as asked)";
    }
  }
}

Result<> require_no_failure(const std::vector<CheckResult>& results, bool shown) {
  std::vector<const CheckResult*> failures;
  for (const auto& result : results) {
    if (result.finding.verdict == Verdict::failed) {
      failures.push_back(&result);
    }
  }
  if (failures.empty()) {
    return {};
  }
  if (failures.size() == 1) {
    const auto& [name, finding] = *failures.front();
    return base::fail(base::Error{finding.code, base::format("preflight check {} failed", name),
                                  shown ? std::string() : finding.evidence, finding.fix});
  }
  std::string cause;
  for (const auto* failure : failures) {
    cause += shown ? (cause.empty() ? "" : ", ") + failure->name
                   : (cause.empty() ? "" : "; ") + failure->name + ": " + failure->finding.evidence;
  }
  return base::fail(base::Error{Code::preflight, base::format("{} preflight checks failed", failures.size()),
                                cause, "mend them, 'dstackup doctor' says how"});
}

std::string checks_as_text(const std::vector<CheckResult>& results) {
  struct Line {
    Verdict verdict;
    std::string names;
    const Finding* finding;
  };
  std::vector<Line> lines;
  std::size_t width = 0;
  for (const auto& [name, finding] : results) {
    if (finding.verdict == Verdict::skipped) {
      continue;
    }
    lines.push_back({finding.verdict, name, &finding});
    width = std::max(width, name.size());
  }
  std::string out;
  for (const auto& line : lines) {
    out += base::format("{:<9} {:<{}}  {}\n", "[" + std::string(to_string(line.verdict)) + "]", line.names,
                        width, base::escape_control(line.finding->evidence));
    if (!line.finding->fix.empty()) {
      out += base::format("{:<9} {:<{}}  fix: {}\n", "", "", width, base::escape_control(line.finding->fix));
    }
  }
  std::vector<std::pair<std::string, std::string>> reasons;
  for (const auto& [name, finding] : results) {
    if (finding.verdict != Verdict::skipped) {
      continue;
    }
    const auto known =
        std::ranges::find(reasons, finding.evidence, &std::pair<std::string, std::string>::first);
    if (known == reasons.end()) {
      reasons.emplace_back(finding.evidence, name);
    } else {
      known->second += ", " + name;
    }
  }
  for (const auto& [reason, names] : reasons) {
    out += base::format("[skipped] {}: {}\n", base::escape_control(reason), names);
  }
  return out;
}

std::string checks_as_json(const std::vector<CheckResult>& results) {
  auto json = nlohmann::ordered_json::array();
  for (const auto& [name, finding] : results) {
    json.push_back({{"name", name},
                    {"verdict", to_string(finding.verdict)},
                    {"evidence", finding.evidence},
                    {"fix", finding.fix}});
  }
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string checks_as_markdown() {
  std::string out = "| check | what must hold | install runs it | may be ignored |\n|---|---|---|---|\n";
  for (const auto& check : k_checks) {
    out += base::format("| `{}` | {} | {} | {} |\n", check.name, check.about, check.preflight ? "yes" : "",
                        check.preflight && check.ignorable ? "yes" : "");
  }
  return out;
}

InstallOptions options_of_installation(const InstallFacts& facts, InstallOptions options) {
  if (facts.state) {
    options.no_kms = facts.state->kms_port == 0;
    options.allow_unpinned_image = facts.state->image && facts.state->os_image_hash.empty();
  }
  return options;
}

}  // namespace dstack::host
