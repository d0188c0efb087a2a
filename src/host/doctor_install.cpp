// Checks of an installation: its files, images, services and KMS.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "app/allowlist_file.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/hash.h"
#include "host/doctor_checks.h"
#include "host/file_digest.h"
#include "host/journal.h"
#include "host/token.h"

namespace dstack::host::checks {

using base::Code;

namespace {

constexpr const char* k_install_again = "run 'dstackup install' again";
constexpr const char* k_not_installed = "nothing is installed here";
constexpr const char* k_needs_root = "needs root";
// To install again without the flag alone would be refused: the image stays as it is.
constexpr const char* k_pinning_fix =
    "build or pull an image with a digest, then 'dstackup install --image NAME' without "
    "--allow-unpinned-image";

bool lets_any_image_pass(const app::Allowlist& list) {
  return list.os_images.empty() && list.allow_any_os_image;
}

// What needs the record of an installation.
std::optional<Finding> without_installation(const CheckContext& context) {
  return context.facts.state ? std::nullopt : std::optional(skipped(k_not_installed));
}

// A file of secrets: there, a regular file, owned by us and for the owner only.
Finding secret_file(const fs::path& path, const char* fix) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == EACCES ? skipped(k_needs_root)
                           : failed(base::format("{}: {}", path.string(), std::strerror(errno)), fix);
  }
  if (!S_ISREG(info.st_mode) || info.st_size == 0) {
    return failed(path.string() + " is empty or no regular file", fix);
  }
  if ((info.st_mode & 077) != 0) {
    return failed(
        base::format("{} has mode {:o}: others can read or change it", path.string(), info.st_mode & 07777),
        "chmod 600 " + path.string());
  }
  return ok(base::format("{}, mode {:o}", path.string(), info.st_mode & 07777));
}

std::string since(std::int64_t unix_seconds) {
  if (unix_seconds == 0) {
    return {};
  }
  std::tm parts = {};
  const std::time_t time = unix_seconds;
  char text[64] = {};
  if (::gmtime_r(&time, &parts) == nullptr ||
      std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%SZ", &parts) == 0) {
    return {};
  }
  return base::format(" since {}", text);
}

Finding service(const CheckContext& context, const std::string& name) {
  const auto status = context.probe.service(name);
  if (!status) {
    const auto code = status.error().code;
    return code == Code::permission ? skipped(k_needs_root) : failed(status.error(), k_install_again);
  }
  if (status->state == ServiceState::unknown && !context.facts.root) {
    return skipped(k_needs_root);  // its manager does not talk to everybody
  }
  auto evidence = base::format("{} is {}{}", name, to_string(status->state), since(status->since_unix));
  if (status->state == ServiceState::active) {
    if (status->pid != 0) {
      evidence += base::format(", pid {}", status->pid);
    }
    if (status->restarts == 0) {
      return ok(evidence);
    }
    evidence += base::format(", restarted {} times", status->restarts);
    return context.probe.now() - status->since_unix < k_recent_restart
               ? warning(evidence, "look for the reason in its log, 'dstackup status' shows the last lines")
               : ok(evidence);
  }
  const auto& why = status->result.empty() ? status->text : status->result;
  evidence += why.empty() ? "" : ": " + why;
  const auto log = context.probe.service_log(name, 1);
  evidence += log.empty() ? "" : "; last log line: " + log.back();
  return failed(evidence, k_install_again, Code::service_failed);
}

// digest.txt, sha256sum.txt and the small files; the kernel, its command line and the initrd decide what
// boots.
base::Result<> quick_image_check(const Image& image) {
  constexpr std::uintmax_t k_largest = 64 * 1024 * 1024;
  DS_TRY(const auto sums, base::read_file(image.directory / k_image_sums));
  if (crypto::sha256_hex(sums) != image.os_image_hash) {
    return base::fail(Code::image_corrupt, "digest.txt is not the sha256 of sha256sum.txt");
  }
  for (std::string_view rest = sums; !rest.empty();) {
    const auto line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (line.size() < 67) {
      return base::fail(Code::image_corrupt, "sha256sum.txt has a malformed line");
    }
    const auto path = image.directory / line.substr(66);
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (error) {
      return base::fail(Code::image_corrupt, base::format("{} is missing", line.substr(66)));
    }
    if (size > k_largest) {
      continue;
    }
    DS_TRY(const auto sum, sha256_file(path));
    if (sum != line.substr(0, 64)) {
      return base::fail(Code::image_corrupt, base::format("{} was changed", line.substr(66)));
    }
  }
  return {};
}

}  // namespace

Finding state_file(const CheckContext& context) {
  const auto& facts = context.facts;
  if (facts.state_problem) {
    return failed(*facts.state_problem, "restore it from a backup, or 'dstackup destroy' and install again");
  }
  if (!facts.state) {
    return ok(facts.last ? "not installed; taken down without --purge" : k_not_installed);
  }
  return ok(base::format("{}, platform {}", facts.layout.state_file().string(), facts.state->platform));
}

Finding journal(const CheckContext& context) {
  const auto entries = Journal::read(context.facts.layout.journal());
  if (!entries) {
    return entries.error().code == Code::permission
               ? skipped(k_needs_root)
               : failed(entries.error(), "restore it from a backup; destroy goes by it");
  }
  if (entries->empty()) {
    return context.facts.state
               ? warning("it is empty, so destroy does not know what is ours", k_install_again)
               : skipped(k_not_installed);
  }
  return ok(base::format("{} entries", entries->size()));
}

Finding programs(const CheckContext& context) {
  const auto& facts = context.facts;
  std::string missing, named;
  for (const auto& [name, path, as_it_is] :
       {std::tuple{"dstack-vmm", facts.vmm_program, facts.named.vmm},
        std::tuple{"dstack-auth", facts.auth_program, facts.named.auth}}) {
    if (path.empty() && !as_it_is.empty()) {
      return failed(as_it_is + " is not a program any more",
                    base::format("put it back, or name another with --{}-bin", std::string(name).substr(7)));
    }
    if (path.empty()) {
      missing += (missing.empty() ? "" : ", ") + std::string(name);
    }
    named += as_it_is.empty() ? "" : "; as it is: " + as_it_is;
  }
  if (!missing.empty()) {
    return failed(base::format("not in {}: {}", facts.program_directory.string(), missing),
                  "name the directory that holds the programs with --programs-from");
  }
  if (!named.empty() && facts.programs_version.empty()) {
    return failed(base::format("{} does not run here", facts.vmm_program.string()),
                  "name a dstack-vmm that was built for this system");
  }
  return ok((facts.named.all ? "none of its own"
                             : "dstack-vmm and dstack-auth in " + facts.program_directory.string()) +
            named);
}

Finding version(const CheckContext& context) {
  if (auto none = without_installation(context)) {
    return *none;
  }
  const auto& installed = context.facts.state->version;
  if (installed == DSTACK_VERSION) {
    return ok(installed);
  }
  return warning(base::format("the installed programs are of version {}, this is " DSTACK_VERSION,
                              installed.empty() ? "unknown" : installed),
                 "bring the installation to this version with 'dstackup upgrade', or use its own dstackup");
}

Finding image(const CheckContext& context) {
  const auto& facts = context.facts;
  const auto& options = context.options;
  constexpr const char* k_fix = "build one with 'dstackup image build'";
  if (facts.image_problem) {
    return failed(*facts.image_problem, k_fix);
  }
  if (facts.image_to_pull) {
    const auto& version = facts.image_to_pull->version;
    const auto evidence =
        base::format("there is none in {}: install pulls {}", facts.layout.images().string(),
                     version.empty() ? "the latest release" : "the release " + version);
    return warning(evidence, "or build one with 'dstackup image build', and leave --image out");
  }
  if (!facts.image) {
    const auto evidence = "there is no guest image with a digest in " + facts.layout.images().string();
    return options.no_kms ? warning(evidence, k_fix) : failed(evidence, k_fix, Code::image_missing);
  }
  if (!facts.image->os_image_hash.empty()) {
    return ok(base::format("{}, digest {}…", facts.image->name, facts.image->os_image_hash.substr(0, 16)));
  }
  const auto evidence =
      base::format("{} has no digest.txt, so keys cannot be bound to it", facts.image->name);
  constexpr const char* k_pin_fix = "build the image again, or accept any image with --allow-unpinned-image";
  return options.no_kms || options.allow_unpinned_image ? warning(evidence, k_pin_fix)
                                                        : failed(evidence, k_pin_fix, Code::image_unpinned);
}

Finding image_pin(const CheckContext& context) {
  if (auto none = without_installation(context)) {
    return *none;
  }
  const auto& state = *context.facts.state;
  if (!state.image) {
    return skipped("no guest image is installed");
  }
  if (state.os_image_hash.empty()) {
    const auto loaded = app::load_allowlist(state.allowlist_path);
    return warning(loaded && lets_any_image_pass(loaded->allowlist)
                       ? "none: any guest image may get keys"
                       : base::format("none: {} has no digest, so no app gets keys on it", *state.image),
                   k_pinning_fix);
  }
  constexpr const char* k_fix = "verify it with 'dstackup image verify', then build or pull it again";
  const auto installed = find_image(context.facts.layout.images(), *state.image);
  if (!installed) {
    return failed(installed.error(), k_fix);
  }
  if (installed->os_image_hash != state.os_image_hash) {
    return failed(base::format("{} has the digest {}…, pinned is {}…", *state.image,
                               installed->os_image_hash.substr(0, 16), state.os_image_hash.substr(0, 16)),
                  k_fix, Code::image_corrupt);
  }
  if (const auto intact = quick_image_check(*installed); !intact) {
    return failed(intact.error(), k_fix);
  }
  return ok(base::format("{} is pinned as {}…", *state.image, state.os_image_hash.substr(0, 16)));
}

Finding kms_image(const CheckContext& context) {
  const auto& facts = context.facts;
  if (context.options.no_kms) {
    return skipped("there is no KMS");
  }
  const auto reference = kms_image_reference(context.options, facts);
  if (facts.kms_image_in_volume) {
    return ok(base::format("{} is in the volume {}", reference,
                           facts.kms_volumes.empty() ? "" : facts.kms_volumes.front().source));
  }
  const auto evidence = base::format("no volume of this host holds {}", reference);
  if (reference.starts_with("localhost/")) {
    return failed(evidence, "add it with 'dstackup volume add ARCHIVE', or name another with --kms-image",
                  Code::image_missing);
  }
  return warning(evidence + ": the KMS's VM pulls it from the registry",
                 "add it with 'dstackup volume add ARCHIVE' to do without the registry");
}

Finding simulated_tee(const CheckContext& context) {
  if (auto none = without_installation(context)) {
    return *none;
  }
  if (context.facts.state->platform != "simulated") {
    return skipped("the platform is " + context.facts.state->platform);
  }
  return secret_file(context.facts.layout.simulated_seed(),
                     "restore it from a backup: with another one apps lose their keys");
}

Finding token(const CheckContext& context) {
  if (auto none = without_installation(context)) {
    return *none;
  }
  const auto path = context.facts.layout.token_file();
  auto finding = secret_file(path, "run 'dstackup install' again, which makes a new one");
  if (finding.verdict != Verdict::ok) {
    return finding;
  }
  const auto token = read_token(path);
  return token || token.error().code == Code::permission ? std::move(finding)
                                                         : failed(token.error(), k_install_again);
}

Finding allow_list(const CheckContext& context) {
  if (auto none = without_installation(context)) {
    return *none;
  }
  const auto& state = *context.facts.state;
  const auto loaded = app::load_allowlist(state.allowlist_path);
  if (!loaded) {
    const auto code = loaded.error().code;
    return code == Code::permission || (!context.facts.root && code == Code::unsafe_allowlist)
               ? skipped(k_needs_root)
               : failed(loaded.error(), "restore it from a backup: until then no app gets keys");
  }
  const auto& list = loaded->allowlist;
  const auto evidence = base::format("{} apps, {} guest images", list.apps.size(), list.os_images.size());
  if (!state.os_image_hash.empty() && !list.os_images.contains(state.os_image_hash)) {
    return failed(evidence + "; the pinned guest image is not among them: no app gets keys", k_install_again);
  }
  if (lets_any_image_pass(list)) {
    return warning(evidence + "; any guest image may get keys", k_pinning_fix);
  }
  return ok(evidence);
}

Finding auth_service(const CheckContext& context) {
  if (auto none = without_installation(context)) {
    return *none;
  }
  auto finding = service(context, context.facts.state->auth_unit);
  if (finding.verdict != Verdict::ok) {
    return finding;
  }
  // A process that runs and does not answer would keep every app from its keys.
  const auto healthy = context.probe.ask_auth(context.facts.state->auth_port);
  return healthy ? std::move(finding) : failed(healthy.error(), k_install_again);
}

Finding vmm_service(const CheckContext& context) {
  auto none = without_installation(context);
  return none ? *none : service(context, context.facts.state->vmm_unit);
}

Finding vmm_api(const CheckContext& context) {
  if (auto none = without_installation(context)) {
    return *none;
  }
  const auto said = context.probe.ask_vmm(context.facts.layout, *context.facts.state);
  if (!said) {
    return said.error().code == Code::permission ? skipped(k_needs_root)
                                                 : failed(said.error(), k_install_again);
  }
  return ok(base::format("{}, {}", context.facts.state->client_url, *said));
}

Finding kms(const CheckContext& context) {
  if (auto none = without_installation(context)) {
    return *none;
  }
  const auto& state = *context.facts.state;
  if (state.kms_port == 0) {
    return skipped("there is no KMS");
  }
  if (state.kms_ca_cert.empty()) {
    return failed("it was never ready", "run 'dstackup install' again, which goes on with it",
                  Code::kms_not_ready);
  }
  const auto expected = kms_expectation(context.facts.layout, state);
  if (!expected) {
    return expected.error().code == Code::permission
               ? skipped(k_needs_root)
               : failed(expected.error(), "restore the file from a backup");
  }
  const auto contact = context.probe.contact_kms(*expected);
  if (!contact) {
    return failed(contact.error(),
                  "look at its VM with 'dstackup status'; 'dstackup install' starts it again");
  }
  return ok(base::format("https://127.0.0.1:{}, root {}…, evidence {}", state.kms_port,
                         contact->ca_sha256.substr(0, 16), contact->verdict.tcb_status));
}

}  // namespace dstack::host::checks
