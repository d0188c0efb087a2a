#include <cerrno>

#include "base/format.h"
#include "unit/host/doctor_host.h"

namespace dstack::host {
namespace {

using enum Verdict;
constexpr auto k_tdx = PlatformKind::tdx;
constexpr auto k_snp = PlatformKind::amd_sev_snp;

TEST(Doctor, Root) {
  DoctorHost host;
  host.expect("root", ok, "root");
  host.facts.root = false;
  host.expect("root", failed, "root");
  EXPECT_EQ(host.run("root").code, base::Code::not_root);
}

TEST(Doctor, Platform) {
  DoctorHost host;
  host.expect("platform", ok, "simulated: no TEE");
  host.facts.platform.reset();
  host.facts.platform_problem = base::Error{base::Code::no_platform, "neither TDX nor SEV-SNP", {}, {}};
  host.expect("platform", failed, "neither TDX nor SEV-SNP");
  EXPECT_NE(host.run("platform").fix.find("--platform simulated"), std::string::npos);
  EXPECT_EQ(host.run("platform").code, base::Code::no_platform);
  DoctorHost(k_tdx).expect("platform", ok, "tdx");
}

// What a TEE platform needs of the machine, and how it looks where one thing is missing or says something
// else.
TEST(Doctor, MachineOfATeePlatform) {
  const std::optional<std::string> gone;
  struct Row {
    PlatformKind platform;
    const char* check;
    const char* whole;  // what is seen while nothing is wrong
    const char* file;
    std::optional<std::string> text;
    Verdict verdict;
    const char* evidence;
  };
  const Row rows[] = {
      {k_tdx, "tdx-cpu", "tdx_host_platform", "/proc/cpuinfo", "flags : fpu tdx_host_platform_x\n", failed,
       "does not list tdx_host_platform"},
      {k_tdx, "tdx-cpu", "tdx_host_platform", "/proc/cpuinfo", gone, failed, "cpuinfo"},
      {k_tdx, "tdx-kvm", "is Y", "/sys/module/kvm_intel/parameters/tdx", "1\n", ok, "is 1"},
      {k_tdx, "tdx-kvm", "is Y", "/sys/module/kvm_intel/parameters/tdx", "N\n", failed, "is N"},
      {k_tdx, "tdx-kvm", "is Y", "/sys/module/kvm_intel/parameters/tdx", gone, failed, "does not exist"},
      // spec/host.md section 1.3, step 1b: both nodes.
      {k_tdx, "sgx-devices", "sgx_provision", "/dev/sgx_provision", gone, failed,
       "missing: /dev/sgx_provision"},
      {k_tdx, "sgx-devices", "sgx_provision", "/dev/sgx_enclave", gone, failed, "missing: /dev/sgx_enclave"},
      {k_tdx, "quote-service", "pid 812", "/dev/vsock", gone, failed, "/dev/vsock"},
      {k_tdx, "quote-service", "pid 812", "/proc/812/comm", "qgs-helper\n", failed, "no process qgs"},
      {k_snp, "snp-cpu", "sev_snp", "/proc/cpuinfo", "flags : fpu sev sev_es\n", failed,
       "does not list sev_snp"},
      {k_snp, "snp-kvm", "kvm_amd", "/sys/module/kvm_amd/parameters/sev_snp", "N\n", failed, "is N"},
      {k_snp, "snp-device", "/dev/sev", "/dev/sev", gone, failed, "/dev/sev"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(base::format("{} with {} = {}", row.check, row.file, row.text.value_or("gone")));
    const DoctorHost host(row.platform);
    host.expect(row.check, ok, row.whole);
    row.text ? host.write(row.file, *row.text) : host.remove(row.file);
    host.expect(row.check, row.verdict, row.evidence);
  }
  const DoctorHost neither(k_tdx);
  neither.remove("/dev/sgx_provision");
  neither.remove("/dev/sgx_enclave");
  neither.expect("sgx-devices", failed, "missing: /dev/sgx_enclave, /dev/sgx_provision");
}

// Each platform has its own gates: those of the others are skipped, with the reason.
TEST(Doctor, ChecksOfOtherPlatformsAreSkipped) {
  const char* const tdx[] = {"tdx-cpu", "tdx-kvm", "sgx-devices", "quote-service"};
  const char* const snp[] = {"snp-cpu", "snp-kvm", "snp-device"};
  const DoctorHost simulated;
  const DoctorHost on_tdx(k_tdx);
  const DoctorHost on_snp(k_snp);
  DoctorHost nothing;
  nothing.facts.platform.reset();
  for (const char* name : tdx) {
    simulated.expect(name, skipped, "the platform is simulated");
    on_snp.expect(name, skipped, "the platform is amd-sev-snp");
    nothing.expect(name, skipped, "there is no TEE platform");
  }
  for (const char* name : snp) {
    simulated.expect(name, skipped, "the platform is simulated");
    on_tdx.expect(name, skipped, "the platform is tdx");
    nothing.expect(name, skipped, "there is no TEE platform");
  }
}

TEST(Doctor, Kvm) {
  DoctorHost host;
  host.expect("kvm", ok, "/dev/kvm opens");
  host.device_errors["kvm"] = EIO;
  host.expect("kvm", warning, "emulated");
  host.facts.root = false;
  host.device_errors["kvm"] = EACCES;
  host.expect("kvm", skipped, "needs root");
  host.facts.root = true;
  host.expect("kvm", warning, "cannot be opened");
  DoctorHost tee(k_tdx);
  tee.expect("kvm", ok, "/dev/kvm opens");
  tee.remove("/dev/kvm");
  tee.expect("kvm", failed, "/dev/kvm does not exist");
}

// An open /dev/kvm proves little: what the VMM tried in this boot counts.
TEST(Doctor, KvmAsTriedByTheVmm) {
  DoctorHost host;
  const auto record = host.facts.layout.vms() / ".accelerator.json";
  DoctorHost::write_file(record, R"({"key":"boot-1|q|v","kvm":false,"reason":"a guest does not run"})");
  host.expect("kvm", warning, "a guest does not run");
  DoctorHost::write_file(record, R"({"key":"boot-1|q|v","kvm":true,"reason":"a probe guest ran"})");
  host.expect("kvm", ok, "a probe guest ran");
  for (const char* other : {R"({"key":"boot-2|q|v","kvm":false,"reason":"x"})", "[]", "{", R"({"kvm":false})",
                            R"({"key":7,"kvm":false})", R"({"key":"boot-1|","kvm":"no"})"}) {
    DoctorHost::write_file(record, other);
    host.expect("kvm", ok, "/dev/kvm opens");
  }
}

TEST(Doctor, VhostVsock) {
  DoctorHost().expect("vhost-vsock", skipped, "the platform is simulated");
  DoctorHost host(k_snp);
  host.expect("vhost-vsock", ok, "opens");
  host.remove("/dev/vhost-vsock");
  host.expect("vhost-vsock", failed, "does not exist");
  host.device_errors["vhost-vsock"] = EACCES;
  host.facts.root = false;
  host.expect("vhost-vsock", skipped, "needs root");
}

TEST(Doctor, Qemu) {
  DoctorHost host;
  host.expect("qemu", ok, "QEMU 10.1.0");
  host.qemu_version = "QEMU emulator version 7.2.22 (Debian 1:7.2)\n";
  host.expect("qemu", ok, "QEMU 7.2.22");
  host.qemu_version = "QEMU emulator version 7.1.9\n";
  host.expect("qemu", failed, "7.2 is the oldest");
  host.qemu_version = "something else\n";
  host.expect("qemu", failed, "version");
  host.probe.ask_qemu = [](const std::string&, const std::vector<std::string>&) -> base::Result<std::string> {
    return base::fail(base::Code::timeout, "it hangs");
  };
  host.expect("qemu", failed, "it hangs");
  host.facts.qemu.clear();
  host.expect("qemu", failed, "QEMU is not installed");
  host.options.qemu = "/opt/qemu";
  host.expect("qemu", failed, "/opt/qemu");
}

// A version number does not tell what a distribution's QEMU can do.
TEST(Doctor, QemuForTheTee) {
  DoctorHost tdx(k_tdx);
  tdx.expect("qemu", ok, "knows tdx-guest");
  tdx.qemu_objects = "sev-snp-guest\n";
  tdx.expect("qemu", failed, "does not know the object tdx-guest");
  EXPECT_NE(tdx.run("qemu").fix.find("10.1"), std::string::npos);
  DoctorHost snp(k_snp);
  snp.expect("qemu", ok, "knows sev-snp-guest");
  snp.qemu_objects = "tdx-guest\nsev-guest\n";
  snp.expect("qemu", failed, "does not know the object sev-snp-guest");
  EXPECT_NE(snp.run("qemu").fix.find("9.1"), std::string::npos);
}

}  // namespace
}  // namespace dstack::host
