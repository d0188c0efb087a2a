#include <ctime>

#include "crypto/x509.h"
#include "unit/host/doctor_host.h"

namespace dstack::host {
namespace {

using enum Verdict;

// Root's services run programs from there.
TEST(Doctor, Directories) {
  DoctorHost host;
  host.expect("directories", ok, "only root");
  const auto prefix = *host.facts.layout.prefix;
  ASSERT_TRUE(base::make_dirs(host.facts.layout.libexec));
  host.expect("directories", ok, "only root");
  std::filesystem::permissions(prefix, std::filesystem::perms(0777));
  host.expect("directories", failed, prefix.string() + " can be changed by everybody (mode 777)");
  std::filesystem::permissions(prefix, std::filesystem::perms(0755));
  std::filesystem::permissions(host.facts.layout.libexec, std::filesystem::perms(0775));
  host.expect("directories", failed, "can be changed by its group");
  std::filesystem::remove(host.facts.layout.libexec);
  std::filesystem::create_directory(host.dir / "open");
  std::filesystem::permissions(host.dir / "open", std::filesystem::perms(0777));
  std::filesystem::create_directory_symlink(host.dir / "open", host.facts.layout.libexec);
  host.expect("directories", failed, (host.dir / "open").string());
}

TEST(Doctor, Tools) {
  DoctorHost host;
  host.expect("tools", ok, "qemu-img");
  host.probe.find_tool = [](const std::string&) { return std::nullopt; };
  host.expect("tools", failed, "qemu-img");
}

TEST(Doctor, Memory) {
  DoctorHost host;
  host.expect("memory", ok, "8192 MiB");
  host.facts.memory_mib = 1499;
  host.expect("memory", failed, "1499 MiB");
  host.facts.memory_mib = 1500;
  host.expect("memory", ok, "1500 MiB");
  host.facts.memory_mib.reset();
  host.expect("memory", warning, "/proc/meminfo");
  host.install();
  host.facts.memory_mib = 1499;
  host.expect("memory", ok, "1499 MiB");
  host.facts.memory_mib = 1023;
  host.expect("memory", warning, "1023 MiB");
}

TEST(Doctor, Disk) {
  DoctorHost host;
  host.expect("disk", ok, "50000 MiB are free for");
  host.facts.disk_mib = 2047;
  host.expect("disk", failed, host.facts.layout.state.string());
  EXPECT_EQ(host.run("disk").code, base::Code::no_space);
  host.facts.disk_mib = 4095;
  host.expect("disk", warning, "4095 MiB");
  host.facts.disk_mib.reset();
  host.expect("disk", warning, "not known");
  host.install();
  host.facts.disk_mib = 512;
  host.expect("disk", warning, "512 MiB");
  host.facts.disk_mib = 511;
  host.expect("disk", failed, "511 MiB");
}

void make_systemd(const DoctorHost& host) {
  host.write("/proc/1/comm", "systemd\n");
  std::filesystem::create_directories(host.root() / "run/systemd/system");
  host.write("/run/dbus/system_bus_socket", "");
}

TEST(Doctor, Cgroup) {
  const DoctorHost host;
  host.expect("cgroup", ok, "v2 at /sys/fs/cgroup");
  host.write("/proc/self/mounts", "proc /proc proc rw 0 0\n");
  host.expect("cgroup", warning, "no cgroup file system");
  host.write("/proc/self/mounts", "c /sys/fs/cgroup/memory cgroup rw,memory 0 0\n");
  host.expect("cgroup", warning, "only cgroup v1");
  const char* const hybrid =
      "c /sys/fs/cgroup/unified cgroup2 rw 0 0\nc /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
  host.write("/proc/self/mounts", hybrid);
  host.expect("cgroup", ok, "v1 beside it");
  make_systemd(host);
  host.expect("cgroup", warning, "not enforced");
}

TEST(Doctor, ServiceManager) {
  DoctorHost host;
  host.expect("service-manager", ok, "built-in supervisor: PID 1 is init");
  make_systemd(host);
  host.expect("service-manager", ok, "systemd");
  host.remove("/run/dbus/system_bus_socket");
  host.expect("service-manager", failed, "D-Bus");
  host.write("/run/dbus/system_bus_socket", "");
  host.install();
  host.expect("service-manager", failed, "installed under supervisor");
  host.facts.state->service_manager = "systemd";
  host.expect("service-manager", ok, "systemd");
  // Left over from another boot: only PID 1 tells.
  host.write("/proc/1/comm", "sh\n");
  host.expect("service-manager", failed, "installed under systemd");
}

TEST(Doctor, Clock) {
  DoctorHost host;
  host.expect("clock", ok, "time service");
  host.clock_is_kept = false;
  host.expect("clock", ok, "no time service");
  host.facts.platform = PlatformKind::tdx;
  host.expect("clock", warning, "no time service");
  host.now = 0;
  host.expect("clock", failed, "before 2026");
  host.facts.platform = PlatformKind::simulated;
  host.install();
  host.now = std::time(nullptr) - 200;
  host.expect("clock", ok, "");
  host.now = std::time(nullptr) - 400;
  host.expect("clock", failed, "behind the last install");
}

TEST(Doctor, ClockAndTheRootCertificate) {
  DoctorHost host;
  host.install();
  const auto from = std::time(nullptr) + 1000;
  const auto key = crypto::P256Key::generate();
  ASSERT_TRUE(key);
  crypto::CertificateProfile profile;
  profile.common_name = "root";
  profile.ca_path_length = 1;
  profile.not_before = from;
  profile.not_after = from + 1000;
  const auto ca = crypto::self_sign(profile, *key);
  ASSERT_TRUE(ca);
  DoctorHost::write_file(host.facts.layout.kms_ca(), ca->pem());
  host.now = from;
  host.expect("clock", ok, "time service");
  host.now = from - 1;
  host.expect("clock", failed, "not valid");
  host.now = from + 1001;
  host.expect("clock", failed, "not valid");
}

TEST(Doctor, Ports) {
  DoctorHost host;
  host.expect("ports", ok, "free: 9080, 8001, 10000, 12443");
  host.busy = {8001, 10000};
  host.expect("ports", failed, "port 127.0.0.1:8001 is in use; port 127.0.0.1:10000 is in use");
  EXPECT_NE(host.run("ports").fix.find("--auth-port, --host-api-port"), std::string::npos);
  EXPECT_EQ(host.run("ports").code, base::Code::address_in_use);
  host.busy = {};
  host.options.dashboard_port = 8001;
  host.expect("ports", failed, "--dashboard-port and --auth-port");
  host.options.dashboard_port.reset();
  host.facts.state_problem = base::Error{};
  host.expect("ports", skipped, "cannot be read");
  host.expect("cid-window", skipped, "cannot be read");
  host.facts.state_problem.reset();
  host.install();
  host.busy = {9080, 8001, 10000, 12443};
  host.expect("ports", ok, "held by our services: 9080, 8001, 10000, 12443");
  host.facts.auth_running = false;
  host.expect("ports", failed, "8001 is in use");
  host.facts.root = false;
  host.expect("ports", skipped, "needs root");
}

TEST(Doctor, PortsOnTdxHaveTheKeyProvider) {
  DoctorHost host(PlatformKind::tdx);
  host.expect("ports", ok, "3443");
  host.busy = {3443};
  host.expect("ports", failed, "3443");
  EXPECT_NE(host.run("ports").fix.find("--key-provider-port"), std::string::npos);
}

TEST(Doctor, PortPolicy) {
  DoctorHost host;
  host.expect("port-policy", ok, "12443, allowed are 1 to 20000");
  host.options.kms_port = 20001;
  host.expect("port-policy", failed, "20001");
  host.options.kms_port.reset();
  host.options.no_kms = true;
  host.expect("port-policy", skipped, "no KMS");
  host.options.no_kms = false;
  host.install();
  host.expect("port-policy", ok, "12443");
  const auto toml = host.facts.layout.vmm_toml();
  DoctorHost::write_file(toml,
                         "[cvm.port_mapping]\nrange = [{ protocol = \"tcp\", from = 1, to = 12442 }]\n");
  host.expect("port-policy", failed, "allowed are 1 to 12442");
  DoctorHost::write_file(toml,
                         "[cvm.port_mapping]\nrange = [{ protocol = \"udp\", from = 1, to = 20000 }]\n");
  host.expect("port-policy", failed, "allows no TCP ports");
  DoctorHost::write_file(toml, "not toml =");
  host.expect("port-policy", failed, "allows no TCP ports");
  std::filesystem::remove(toml);
  host.expect("port-policy", failed, "vmm.toml");
}

TEST(Doctor, CidWindow) {
  DoctorHost host;
  host.expect("cid-window", ok, "1000-1999 will be ours; no other VM manager runs");
  host.facts.others.cids = {{1000, 2000}};
  host.facts.others.vmms = {{42, "/etc/other/vmm.toml"}};
  host.expect("cid-window", ok, "2000-2999");
  host.options.cid_start = 1500;
  host.expect("cid-window", failed, "overlap");
  EXPECT_EQ(host.run("cid-window").code, base::Code::cid_conflict);
  host.options.cid_start.reset();
  host.facts.others = {};
  host.install();
  host.expect("cid-window", ok, "1000-1999 is ours");
  host.facts.others.cids = {{1999, 2000}};
  host.expect("cid-window", warning, "overlap");
  EXPECT_NE(host.run("cid-window").fix.find("--cid-start 2000"), std::string::npos);
  host.facts.platform = PlatformKind::tdx;
  host.expect("cid-window", failed, "overlap");
}

TEST(Doctor, HostApiPort) {
  DoctorHost host;
  host.expect("host-api-port", ok, "10000");
  host.facts.others.host_api_ports = {9999, 10000};
  host.expect("host-api-port", failed, "10000");
  EXPECT_EQ(host.run("host-api-port").code, base::Code::other_vmm);
  host.options.host_api_port = 10001;
  host.expect("host-api-port", ok, "10001");
  host.options.host_api_port.reset();
  host.options.no_kms = true;
  host.expect("host-api-port", skipped, "no KMS");
}

}  // namespace
}  // namespace dstack::host
