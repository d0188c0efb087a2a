// A host of files and functions on which every check is ok until a test breaks something.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "base/fs.h"
#include "crypto/hash.h"
#include "host/doctor.h"
#include "host/journal.h"
#include "unit/temp_dir.h"

namespace dstack::host {

class DoctorHost {
 public:
  explicit DoctorHost(PlatformKind platform = PlatformKind::simulated) {
    write("/proc/cpuinfo", "processor : 0\nflags\t\t: fpu tdx_host_platform sev_snp vme\n");
    write("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
    write("/proc/sys/kernel/random/boot_id", "boot-1\n");
    write("/proc/1/comm", "init\n");
    write("/proc/812/comm", "qgs\n");
    write("/sys/module/kvm_intel/parameters/tdx", "Y\n");
    write("/sys/module/kvm_amd/parameters/sev_snp", "Y\n");
    for (const char* device : {"sgx_enclave", "sgx_provision", "sev", "kvm", "vsock", "vhost-vsock"}) {
      write(std::string("/dev/") + device, "");
    }
    probe.root = root();
    probe.open_device = [this](const std::filesystem::path& device) {
      const auto known = device_errors.find(device.filename());
      return known != device_errors.end() ? known->second : std::filesystem::exists(device) ? 0 : ENOENT;
    };
    probe.ask_qemu = [this](const std::string&, const std::vector<std::string>& arguments) {
      return base::Result<std::string>(arguments.front() == "--version" ? qemu_version : qemu_objects);
    };
    probe.find_tool = [](const std::string& tool) { return std::optional("/usr/bin/" + tool); };
    probe.now = [this] { return now; };
    probe.clock_is_kept = [this] { return clock_is_kept; };
    probe.service = [this](const std::string& name) -> base::Result<ServiceStatus> {
      auto status = service;
      status.name = name;
      return status;
    };
    probe.service_log = [](const std::string&, std::size_t) {
      return std::vector<std::string>{"the last words"};
    };
    probe.ask_auth = [this](std::uint16_t) { return auth_health; };
    probe.ask_vmm = [](const Layout&, const InstallState&) {
      return base::Result<std::string>("2 VMs, 1 running");
    };
    probe.contact_kms = [](const KmsExpectation&) -> base::Result<KmsContact> {
      KmsContact contact;
      contact.ca_sha256 = std::string(64, 'c');
      contact.verdict.tcb_status = "Simulated";
      return contact;
    };
    facts.root = true;
    facts.layout = *Layout::make((dir / "p").string());
    facts.instance = "p-1";
    facts.platform = platform;
    facts.auth_program = "/b/dstack-auth";
    facts.vmm_program = "/b/dstack-vmm";
    facts.programs_version = DSTACK_VERSION;
    facts.program_directory = "/b";
    facts.qemu = "/usr/bin/qemu-system-x86_64";
    facts.memory_mib = 8192;
    facts.disk_mib = 50'000;
    facts.port_is_free = [this](const std::string&, std::uint16_t port) -> base::Result<bool> {
      return !busy.contains(port);
    };
    facts.kms_image_in_volume = true;
    facts.kms_volumes = {{"dstack-kms.img", std::string(64, 'b'), "/run/x"}};
    facts.image = Image{};
    facts.image->name = "dstack-0.1.0";
    facts.image->os_image_hash = std::string(64, 'a');
    service.state = ServiceState::active;
    service.pid = 77;
  }

  std::filesystem::path root() const { return dir / "root"; }

  void write(const std::string& path, const std::string& text) const {
    write_file(root() / path.substr(1), text);
  }
  void remove(const std::string& path) const { std::filesystem::remove_all(root() / path.substr(1)); }
  static void write_file(const std::filesystem::path& path, const std::string& text, mode_t mode = 0644) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;  // nothing here needs to be durable
    std::filesystem::permissions(path, std::filesystem::perms(mode));
  }

  // An installation of which all files are there.
  void install() {
    const auto& l = facts.layout;
    const auto image = l.images() / "dstack-0.1.0";
    write_file(image / "kernel", "k");
    write_file(image / "initrd", "i");
    const std::string metadata =
        R"({"cmdline":"","kernel":"kernel","initrd":"initrd","rootfs_hash":"","version":"0.1.0"})";
    write_file(image / "metadata.json", metadata);
    const auto sums = crypto::sha256_hex("i") + "  initrd\n" + crypto::sha256_hex("k") + "  kernel\n" +
                      crypto::sha256_hex(metadata) + "  metadata.json\n";
    write_file(image / "sha256sum.txt", sums);
    write_file(image / "digest.txt", crypto::sha256_hex(sums) + "\n");
    facts.image->os_image_hash = crypto::sha256_hex(sums);
    write_file(l.token_file(), std::string(64, '0'), 0600);
    write_file(l.simulated_seed(), std::string(64, '0'), 0600);
    write_file(l.vmm_toml(), "[cvm.port_mapping]\nrange = [{ protocol = \"tcp\", from = 1, to = 20000 }]\n",
               0600);
    write_file(l.allowlist(), R"({"osImages":[")" + facts.image->os_image_hash + R"("],"kms":{},"apps":{}})");
    write_file(l.journal(), Journal::line({JournalEntry::Kind::file, "/x", "y"}));
    const auto plan = make_plan(options, facts);
    ASSERT_TRUE(plan) << plan.error().what();
    facts.state = plan->state;
    facts.state->kms_vm_id = "vm-1";
    facts.state->service_manager = "supervisor";
    facts.state->kms_ca_cert = l.kms_ca().string();
    write_file(l.state_file(), to_json_text(*facts.state));
    facts.auth_running = facts.vmm_running = facts.kms_running = true;
  }

  Finding run(std::string_view name) const {
    for (const auto& check : all_checks()) {
      if (check.name == name) {
        return check.run({probe, options, facts});
      }
    }
    ADD_FAILURE() << "there is no check " << name;
    return {};
  }
  // The verdict, and that what is seen is said; what is wrong comes with a fix.
  void expect(std::string_view name, Verdict verdict, const std::string& evidence) const {
    const auto finding = run(name);
    EXPECT_EQ(finding.verdict, verdict) << name << ": " << finding.evidence;
    EXPECT_NE(finding.evidence.find(evidence), std::string::npos) << name << ": " << finding.evidence;
    const bool wrong = verdict == Verdict::warning || verdict == Verdict::failed;
    EXPECT_EQ(finding.fix.empty(), !wrong) << name << ": " << finding.fix;
  }

  test::TempDir dir;
  Probe probe;
  InstallOptions options;
  InstallFacts facts;
  std::map<std::string, int> device_errors;
  std::string qemu_version = "QEMU emulator version 10.1.0\n";
  std::string qemu_objects = "List of user creatable objects:\n  sev-snp-guest\n  tdx-guest\n";
  std::int64_t now = 1'800'000'000;
  bool clock_is_kept = true;
  base::Result<> auth_health;
  ServiceStatus service;
  std::set<std::uint16_t> busy;
};

}  // namespace dstack::host
