// Checks of what the machine offers to VMs: TEE, KVM, QEMU.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/doctor_checks.h"
#include "host/qemu_version.h"

namespace dstack::host::checks {

using base::Code;

namespace {

constexpr QemuVersion k_least_qemu{7, 2, 0};
constexpr const char* k_no_tee_fix = "for development without a TEE: dstackup install --platform simulated";

bool is_tee(const CheckContext& context) {
  return context.facts.platform == PlatformKind::tdx || context.facts.platform == PlatformKind::amd_sev_snp;
}

// Why a check for one platform does not apply; nullopt: it does.
std::optional<Finding> not_for(const CheckContext& context, PlatformKind kind) {
  if (context.facts.platform == kind) {
    return std::nullopt;
  }
  return skipped(context.facts.platform
                     ? base::format("the platform is {}", to_string(*context.facts.platform))
                     : "there is no TEE platform");
}

bool exists(const CheckContext& context, std::string_view path) {
  std::error_code error;
  return std::filesystem::exists(context.probe.at(path), error);
}

std::string read_word(const CheckContext& context, std::string_view path) {
  return std::string(base::trim(base::read_file(context.probe.at(path), 4096).value_or("")));
}

Finding cpu_flag(const CheckContext& context, const char* flag, const char* fix) {
  const auto cpuinfo = base::read_file(context.probe.at("/proc/cpuinfo"));
  if (!cpuinfo) {
    return failed(cpuinfo.error(), "mount /proc");
  }
  if (has_cpu_flag(*cpuinfo, flag)) {
    return ok(base::format("{} in /proc/cpuinfo", flag));
  }
  return failed(base::format("/proc/cpuinfo does not list {}", flag), fix);
}

Finding kvm_parameter(const CheckContext& context, std::string_view module, std::string_view parameter,
                      const char* fix) {
  const auto path = base::format("/sys/module/{}/parameters/{}", module, parameter);
  if (!exists(context, path)) {
    return failed(base::format("{} does not exist: {} is not loaded or too old", path, module), fix);
  }
  const auto value = read_word(context, path);
  if (value == "Y" || value == "1") {
    return ok(base::format("{} is {}", path, value));
  }
  return failed(base::format("{} is {}", path, value.empty() ? "empty" : value), fix);
}

// nullopt when it opens; for what is missing the verdict is for the caller.
std::optional<std::string> why_closed(const CheckContext& context, const char* device, bool& needs_root) {
  const int error = context.probe.open_device(context.probe.at(device));
  needs_root = !context.facts.root && (error == EACCES || error == EPERM);
  if (error == 0) {
    return std::nullopt;
  }
  return error == ENOENT ? base::format("{} does not exist", device)
                         : base::format("{} cannot be opened: {}", device, std::strerror(error));
}

// What dstack-vmm found out in this boot when it ran a guest under KVM.
std::optional<std::pair<bool, std::string>> tried_kvm(const CheckContext& context) {
  const auto text = base::read_file(context.facts.layout.vms() / ".accelerator.json", 64 * 1024);
  const auto json = nlohmann::json::parse(text.value_or(""), nullptr, /*allow_exceptions=*/false);
  const auto boot = read_word(context, "/proc/sys/kernel/random/boot_id");
  const auto text_of = [&](const char* key) {
    const auto it = json.is_object() ? json.find(key) : json.end();
    return it != json.end() && it->is_string() ? it->get<std::string>() : "";
  };
  if (!json.is_object() || boot.empty() || !text_of("key").starts_with(boot + "|") || !json.contains("kvm") ||
      !json["kvm"].is_boolean()) {
    return std::nullopt;
  }
  return std::pair(json["kvm"].get<bool>(), text_of("reason"));
}

}  // namespace

Finding root(const CheckContext& context) {
  if (context.facts.root) {
    return ok("dstackup runs as root");
  }
  return failed("dstackup does not run as root", "run it with sudo", Code::not_root);
}

Finding platform(const CheckContext& context) {
  const auto& facts = context.facts;
  if (facts.platform_problem) {
    return failed(*facts.platform_problem, k_no_tee_fix);
  }
  if (facts.platform == PlatformKind::simulated) {
    return ok("simulated: no TEE protects these VMs, for development");
  }
  return ok(facts.platform ? std::string(to_string(*facts.platform)) : "none");
}

Finding tdx_cpu(const CheckContext& context) {
  if (auto other = not_for(context, PlatformKind::tdx)) {
    return *other;
  }
  return cpu_flag(context, "tdx_host_platform",
                  "switch on TDX, TME-MT and SEAM in the firmware, and use a processor and kernel with TDX");
}

Finding tdx_kvm(const CheckContext& context) {
  if (auto other = not_for(context, PlatformKind::tdx)) {
    return *other;
  }
  return kvm_parameter(context, "kvm_intel", "tdx",
                       "boot a kernel with TDX host support with kvm_intel.tdx=1 nohibernate");
}

Finding sgx_devices(const CheckContext& context) {
  if (auto other = not_for(context, PlatformKind::tdx)) {
    return *other;
  }
  std::string missing;
  for (const char* device : {"/dev/sgx_enclave", "/dev/sgx_provision"}) {
    if (!exists(context, device)) {
      missing += (missing.empty() ? "" : ", ") + std::string(device);
    }
  }
  if (missing.empty()) {
    return ok("/dev/sgx_enclave and /dev/sgx_provision are there");
  }
  return failed("missing: " + missing,
                "switch on SGX in the firmware and boot a kernel with CONFIG_X86_SGX: quotes need it",
                Code::no_platform);
}

Finding quote_service(const CheckContext& context) {
  if (auto other = not_for(context, PlatformKind::tdx)) {
    return *other;
  }
  std::string running;
  std::error_code error;
  for (std::filesystem::directory_iterator it(context.probe.at("/proc"), error), end; !error && it != end;
       it.increment(error)) {
    const auto name = it->path().filename().string();
    if (name.find_first_not_of("0123456789") == std::string::npos &&
        base::trim(base::read_file(it->path() / "comm", 256).value_or("")) == "qgs") {
      running = name;
    }
  }
  if (running.empty()) {
    return failed("no process qgs: guests can get no quotes",
                  "install Intel's tdx-qgs package, and start it with 'systemctl enable --now qgsd'");
  }
  if (!exists(context, "/dev/vsock")) {
    return failed(base::format("qgs runs (pid {}), but /dev/vsock does not exist", running),
                  "load it with 'modprobe vsock'");
  }
  return ok(base::format("qgs runs (pid {}), /dev/vsock is there", running));
}

Finding snp_cpu(const CheckContext& context) {
  if (auto other = not_for(context, PlatformKind::amd_sev_snp)) {
    return *other;
  }
  return cpu_flag(context, "sev_snp",
                  "switch on SEV-SNP and SMEE in the firmware, and use a processor and kernel with SEV-SNP");
}

Finding snp_kvm(const CheckContext& context) {
  if (auto other = not_for(context, PlatformKind::amd_sev_snp)) {
    return *other;
  }
  return kvm_parameter(context, "kvm_amd", "sev_snp",
                       "boot a kernel with SEV-SNP host support with kvm_amd.sev_snp=1");
}

Finding snp_device(const CheckContext& context) {
  if (auto other = not_for(context, PlatformKind::amd_sev_snp)) {
    return *other;
  }
  if (exists(context, "/dev/sev")) {
    return ok("/dev/sev is there");
  }
  return failed("/dev/sev does not exist",
                "switch on SEV-SNP in the firmware, and load its driver with 'modprobe ccp'",
                Code::no_platform);
}

Finding kvm(const CheckContext& context) {
  constexpr const char* k_fix =
      "switch on virtualisation in the firmware (in a VM: nested virtualisation), then 'modprobe kvm_intel' "
      "or "
      "'modprobe kvm_amd'";
  bool needs_root = false;
  const auto closed = why_closed(context, "/dev/kvm", needs_root);
  if (needs_root) {
    return skipped("needs root");
  }
  const auto tried = tried_kvm(context);
  if (!closed && (!tried || tried->first)) {
    return ok(tried ? tried->second : "/dev/kvm opens; whether guests run under it, the first VM shows");
  }
  const auto why = closed ? *closed : tried->second;
  if (is_tee(context)) {
    return failed(why, k_fix);
  }
  return warning(why + ": VMs are emulated, some ten times slower", k_fix);
}

Finding vhost_vsock(const CheckContext& context) {
  if (!is_tee(context)) {
    return *not_for(context, PlatformKind::tdx);
  }
  bool needs_root = false;
  const auto closed = why_closed(context, "/dev/vhost-vsock", needs_root);
  if (needs_root) {
    return skipped("needs root");
  }
  return closed ? failed(*closed, "load it with 'modprobe vhost_vsock'") : ok("/dev/vhost-vsock opens");
}

Finding qemu(const CheckContext& context) {
  const auto& facts = context.facts;
  constexpr const char* k_fix = "apt-get install qemu-system-x86, or name the program with --qemu";
  if (facts.qemu.empty()) {
    return failed(context.options.qemu ? base::format("there is no program {}", *context.options.qemu)
                                       : "QEMU is not installed",
                  k_fix);
  }
  const auto said = context.probe.ask_qemu(facts.qemu, {"--version"});
  if (!said) {
    return failed(base::format("{} does not run: {}", facts.qemu, said.error().what()), k_fix);
  }
  const auto version = parse_qemu_version(*said);
  if (!version) {
    return failed(base::format("{}: {}", facts.qemu, version.error().what()), k_fix);
  }
  const auto name =
      base::format("QEMU {}.{}.{} ({})", version->major, version->minor, version->patch, facts.qemu);
  if (*version < k_least_qemu) {
    return failed(
        base::format("{}, {}.{} is the oldest that works", name, k_least_qemu.major, k_least_qemu.minor),
        "install a newer QEMU, or name one with --qemu");
  }
  if (!is_tee(context)) {
    return ok(name);
  }
  // Distributions carry patches, so the version alone does not tell.
  const bool tdx = facts.platform == PlatformKind::tdx;
  const char* const object = tdx ? "tdx-guest" : "sev-snp-guest";
  const auto objects = context.probe.ask_qemu(facts.qemu, {"-object", "help"});
  if (!objects) {
    return failed(base::format("{}: {}", name, objects.error().what()), k_fix);
  }
  if (objects->find(object) == std::string::npos) {
    return failed(base::format("{} does not know the object {}", name, object),
                  base::format("install QEMU {} or later, or name one with --qemu", tdx ? "10.1" : "9.1"));
  }
  return ok(base::format("{} knows {}", name, object));
}

}  // namespace dstack::host::checks
