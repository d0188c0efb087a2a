// QEMU's command line as a pure function of a value (spec/host.md sections 4.12 and 4.17). On TDX the order
// and number of devices is measured into RTMR0, so the order here is fixed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace dstack::vmm {

namespace fs = std::filesystem;

enum class TeeMode { none, tdx, sev_snp, simulated };
enum class ShareMode { p9, vvfat, vhd };

// How instructions of the guest are executed.
struct Accelerator {
  bool kvm = false;
  // QEMU before 10: cmpxchg16b and multi-threaded TCG are broken, so the guest gets neither.
  bool old_tcg = true;
  bool operator==(const Accelerator&) const = default;
  // What the guest really gets of `wanted` CPUs.
  std::uint32_t effective_vcpus(std::uint32_t wanted) const;
};

struct PortForward {
  std::string protocol = "tcp";  // or "udp"
  std::string address = "127.0.0.1";
  std::uint16_t host_port = 0;
  std::uint16_t vm_port = 0;
  bool operator==(const PortForward&) const = default;
};

struct Nic {
  enum class Mode { user, bridge, custom };
  Mode mode = Mode::user;
  std::string mac;
  std::string net;         // user
  std::string dhcp_start;  // user
  bool restrict_guest = false;
  std::string bridge;  // bridge
  std::string netdev;  // custom: the whole -netdev value
};

// MAC of NIC `index`: from sha256 of the VM id, locally administered. `prefix` holds 0 to 3 bytes.
std::string mac_address(std::string_view vm_id, unsigned index, base::ByteView prefix = {});

struct LaunchSpec {
  std::string qemu = "/usr/bin/qemu-system-x86_64";
  TeeMode tee = TeeMode::simulated;
  Accelerator accelerator;  // only looked at for simulated and none; TEEs need KVM
  fs::path directory;       // the VM's work directory
  bool qmp_socket = false;
  std::optional<fs::path> bios;
  fs::path kernel;
  fs::path initrd;
  std::string cmdline;
  bool hotplug_off = false;
  std::uint64_t pci_hole64_size = 0;
  std::optional<fs::path> rootfs;
  std::vector<fs::path> volumes;
  std::vector<Nic> nics;
  std::vector<PortForward> forwards;  // on the first user NIC
  // SMBIOS type number to its (key, value) pairs, in order.
  std::map<int, std::vector<std::pair<std::string, std::string>>> smbios;
  std::optional<fs::path> swtpm_socket;
  std::optional<std::uint32_t> vsock_cid;
  ShareMode share = ShareMode::vhd;
  bool share_read_only = false;
  std::uint32_t vcpus = 1;
  std::uint32_t memory_mb = 1024;

  // TDX
  base::Bytes mr_config_id;  // 48 bytes, or empty to leave it out
  std::optional<std::uint32_t> qgs_port;
  // SEV-SNP
  base::Bytes host_data;  // 32 bytes
  unsigned cbitpos = 51;
  unsigned reduced_phys_bits = 1;
};

// argv[0] is the program. Files are named by their paths.
std::vector<std::string> qemu_argv(const LaunchSpec& spec);

// A file that QEMU is given open, at this descriptor.
struct PassedFile {
  enum class Access { read, write, append };
  fs::path path;
  Access access = Access::read;
  bool reopened = false;  // QEMU opens it anew through /proc/self/fd: its mode has to let it
  int number = 0;
  bool operator==(const PassedFile&) const = default;
};

struct QemuCommand {
  std::vector<std::string> argv;
  std::vector<PassedFile> files;
};
// The same machine, with every file but the program given as an open descriptor: QEMU then needs no access to
// any directory. A share must be a disk (ShareMode::vhd).
QemuCommand qemu_command(const LaunchSpec& spec);

// What the host grants QEMU.
struct ResourceLimits {
  std::uint64_t memory_bytes = 0;
  std::uint64_t tasks = 0;
  unsigned cpu_percent = 0;  // 100 = one CPU
  bool operator==(const ResourceLimits&) const = default;
};
// The guest's memory and CPUs, and what QEMU needs beside them.
ResourceLimits qemu_limits(const LaunchSpec& spec);

}  // namespace dstack::vmm
