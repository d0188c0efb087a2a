#include "vmm/qemu_args.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "crypto/hash.h"

namespace dstack::vmm {

namespace {

// Above those that a process has from the start.
constexpr int k_first_descriptor = 100;

constexpr std::uint64_t k_mebibyte = 1024 * 1024;
// Device models, disk caches, user-mode network.
constexpr std::uint64_t k_qemu_mebibytes = 512;
// Translated code: a GiB of it is kept.
constexpr std::uint64_t k_translation_mebibytes = 1024;
// Workers of its thread pool (64), of user-mode networking, and of its own.
constexpr std::uint64_t k_qemu_threads = 160;

using Argv = std::vector<std::string>;

// What makes emulated guests quick; measured in docs/performance.md. Emulated AVX doubles the time of
// cryptography. String instructions are emulated byte by byte, so the guest must not think them fast: neither
// by ERMS nor by the family and model, which decide on a kernel's REP_GOOD.
constexpr std::string_view k_emulated_cpu =
    ",-avx,-avx2,-erms,vendor=AuthenticAMD,family=15,model=5,stepping=0";

// An emulated CPU does not speculate, and nothing protects this guest from its host anyway: no mitigations,
// no zeroing of memory before use, no self-tests of tracing and jitter entropy, no timers between the ticks.
constexpr std::string_view k_emulated_cmdline =
    "mitigations=off init_on_alloc=0 psi=0 highres=off noreplace-smp "
    "initcall_blacklist=jent_mod_init,trace_eval_init,init_kprobe_trace";

void add(Argv& argv, std::initializer_list<std::string> items) {
  argv.insert(argv.end(), items);
}

// Inside an option's value a comma is written twice.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == ',') {
      out += c;
    }
  }
  return out;
}
std::string escaped(const fs::path& path) {
  return escaped(std::string_view(path.native()));
}

class Builder {
 public:
  Builder(const LaunchSpec& spec, bool pass_files) : m_spec(spec), m_pass_files(pass_files) {}

  QemuCommand build() {
    m_argv.push_back(m_spec.qemu);
    if (m_pass_files) {
      // For people who look at the list of processes.
      add(m_argv, {"-name", escaped(m_spec.directory.filename())});
    }
    cpu();
    console();
    boot();
    disks();
    network();
    smbios();
    swtpm();
    vsock();
    share();
    machine();
    add(m_argv, {"-smp", std::to_string(m_spec.vcpus), "-m", base::format("{}M", m_spec.memory_mb)});
    if (!m_spec.cmdline.empty()) {
      add(m_argv,
          {"-append", tcg() ? base::format("{} {}", m_spec.cmdline, k_emulated_cmdline) : m_spec.cmdline});
    }
    m_argv.insert(m_argv.begin() + 1, m_passed.begin(), m_passed.end());
    return {std::move(m_argv), std::move(m_files)};
  }

 private:
  using Access = PassedFile::Access;

  void pass(const fs::path& path, Access access, bool reopened, int set) {
    const int number = k_first_descriptor + static_cast<int>(m_files.size());
    m_files.push_back({path, access, reopened, number});
    if (!reopened) {
      // The path is for people and for dstackup, which finds its own VMs by it.
      add(m_passed, {"-add-fd", base::format("fd={},set={},opaque={}", number, set, escaped(path))});
    }
  }

  // A file as QEMU opens it by itself.
  std::string file(const fs::path& path, Access access = Access::read) {
    if (!m_pass_files) {
      return escaped(path);
    }
    const int set = k_first_descriptor + static_cast<int>(m_files.size());
    pass(path, access, /*reopened=*/false, set);
    if (access == Access::write) {
      // It looks at a disk's header before it wants to write.
      pass(path, Access::read, /*reopened=*/false, set);
    }
    return base::format("/dev/fdset/{}", set);
  }

  // A file that it reads with means that know no descriptors.
  std::string plain_file(const fs::path& path) {
    if (!m_pass_files) {
      return path.native();
    }
    pass(path, Access::read, /*reopened=*/true, 0);
    return base::format("/proc/self/fd/{}", m_files.back().number);
  }

  bool simulated() const { return m_spec.tee == TeeMode::simulated; }

  // Only simulated guests may run without KVM.
  bool tcg() const { return simulated() && !m_spec.accelerator.kvm; }

  // SNP guests reach devices only through shared memory.
  std::string device(std::string text) const {
    if (m_spec.tee == TeeMode::sev_snp) {
      text += ",disable-legacy=on,iommu_platform=true";
    }
    return text;
  }

  void cpu() {
    if (tcg()) {
      const bool old = m_spec.accelerator.old_tcg;
      add(m_argv, {"-accel", old ? "tcg,thread=single" : "tcg", "-cpu",
                   base::format("max{}{}", old ? ",-cx16" : "", k_emulated_cpu)});
    } else {
      add(m_argv, {"-accel", "kvm", "-cpu", m_spec.tee == TeeMode::sev_snp ? "EPYC-v4" : "host"});
    }
    add(m_argv, {"-nographic", "-nodefaults"});
    if (simulated()) {
      // A guest that panics or reboots ends QEMU, so that it is noticed; QEMU itself needs to start nothing.
      add(m_argv, {"-no-reboot", "-sandbox",
                   "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"});
    }
  }

  void console() {
    const auto log = file(m_spec.directory / "serial.log", Access::append);
    if (simulated()) {
      add(m_argv, {"-chardev", base::format("null,id=com0,logfile={},logappend=on", log)});
    } else {
      add(m_argv, {"-chardev", base::format("pty,id=com0,path={},logfile={},logappend=on",
                                            escaped(m_spec.directory / "serial.pty"), log)});
    }
    add(m_argv, {"-serial", "chardev:com0"});
    if (m_spec.qmp_socket) {
      add(m_argv, {"-qmp", base::format("unix:{},server,wait=off", escaped(m_spec.directory / "qmp.sock"))});
    }
  }

  void boot() {
    if (m_spec.bios) {
      add(m_argv, {"-bios", plain_file(*m_spec.bios)});
    }
    const auto kernel = plain_file(m_spec.kernel);
    add(m_argv, {"-kernel", kernel, "-initrd", plain_file(m_spec.initrd)});
    if (m_spec.hotplug_off) {
      add(m_argv, {"-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"});
    }
    if (m_spec.pci_hole64_size > 0) {
      add(m_argv, {"-global", base::format("q35-pcihost.pci-hole64-size=0x{:x}", m_spec.pci_hole64_size)});
    }
  }

  void disk(const std::string& drive, const std::string& id) {
    add(m_argv, {"-drive", drive, "-device", device("virtio-blk-pci,drive=" + id)});
  }

  void disks() {
    if (m_spec.rootfs) {
      disk(base::format("file={},if=none,id=hd0,format=raw,readonly=on", file(*m_spec.rootfs)), "hd0");
    }
    // A format that is named is not guessed from what the guest wrote into its disk.
    disk(base::format("file={},if=none,id=hd1{}", file(m_spec.directory / "hda.img", Access::write),
                      simulated() ? ",format=qcow2,discard=unmap,detect-zeroes=unmap" : ""),
         "hd1");
    for (std::size_t i = 0; i < m_spec.volumes.size(); ++i) {
      const auto id = base::format("vol{}", i);
      disk(base::format("file={},if=none,id={},format=raw,readonly=on", file(m_spec.volumes[i]), id), id);
    }
  }

  std::string netdev(const Nic& nic, std::size_t index, bool with_forwards) const {
    switch (nic.mode) {
      case Nic::Mode::bridge:
        return base::format("bridge,id=net{},br={}", index, escaped(std::string_view(nic.bridge)));
      case Nic::Mode::custom:
        return nic.netdev;
      case Nic::Mode::user:
        break;
    }
    auto out = base::format("user,id=net{},net={},dhcpstart={},restrict={}", index, nic.net, nic.dhcp_start,
                            nic.restrict_guest ? "yes" : "no");
    if (with_forwards) {
      for (const auto& forward : m_spec.forwards) {
        const bool v6 = forward.address.find(':') != std::string::npos;
        out += base::format(",hostfwd={}:{}{}{}:{}-:{}", forward.protocol, v6 ? "[" : "", forward.address,
                            v6 ? "]" : "", forward.host_port, forward.vm_port);
      }
    }
    return out;
  }

  void network() {
    bool forwarded = false;
    for (std::size_t i = 0; i < m_spec.nics.size(); ++i) {
      const auto& nic = m_spec.nics[i];
      const bool with_forwards = nic.mode == Nic::Mode::user && !forwarded;
      forwarded = forwarded || with_forwards;
      add(m_argv, {"-netdev", netdev(nic, i, with_forwards)});
      // The simulated firmware would load a network boot ROM, which costs time and is never used.
      add(m_argv, {"-device", device(base::format("virtio-net-pci,netdev=net{},mac={}{}", i, nic.mac,
                                                  simulated() ? ",romfile=" : ""))});
    }
  }

  void smbios() {
    for (const auto& [type, values] : m_spec.smbios) {
      if (values.empty()) {
        continue;
      }
      auto text = base::format("type={}", type);
      for (const auto& [key, value] : values) {
        text += base::format(",{}={}", key, escaped(std::string_view(value)));
      }
      add(m_argv, {"-smbios", text});
    }
  }

  void swtpm() {
    if (m_spec.swtpm_socket) {
      add(m_argv, {"-chardev", base::format("socket,id=chrtpm,path={}", escaped(*m_spec.swtpm_socket)),
                   "-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-tis,tpmdev=tpm0"});
    }
  }

  void vsock() {
    if (m_spec.vsock_cid) {
      add(m_argv, {"-device", device(base::format("vhost-vsock-pci,guest-cid={}", *m_spec.vsock_cid))});
    }
  }

  void share() {
    const auto directory = escaped(m_spec.directory / "shared");
    switch (m_spec.share) {
      case ShareMode::p9:
        add(m_argv,
            {"-virtfs",
             base::format("local,path={},mount_tag=host-shared,readonly={},security_model=mapped,id=virtfs0",
                          directory, m_spec.share_read_only ? "on" : "off")});
        break;
      case ShareMode::vvfat:
        add(m_argv,
            {"-blockdev",
             base::format("driver=vvfat,node-name=vvfat0,read-only=on,dir={},label=DSTACKSHR", directory),
             "-device", device("virtio-blk-pci,drive=vvfat0")});
        break;
      case ShareMode::vhd:
        disk(base::format("file={},if=none,id=hd2,format=raw,readonly=on",
                          file(m_spec.directory / "shared.img")),
             "hd2");
        break;
    }
  }

  void machine() {
    switch (m_spec.tee) {
      case TeeMode::simulated:
        add(m_argv, {"-machine", tcg() ? "q35,hpet=off" : "q35,kernel-irqchip=split,hpet=off"});
        break;
      case TeeMode::none:
        add(m_argv, {"-machine", "q35,kernel-irqchip=split,hpet=off"});
        break;
      case TeeMode::tdx:
        add(m_argv, {"-machine", "q35,kernel-irqchip=split,confidential-guest-support=tdx,hpet=off",
                     "-object", tdx_object()});
        break;
      case TeeMode::sev_snp:
        add(m_argv,
            {"-object",
             base::format("memory-backend-memfd,id=ram1,size={}M,share=true,prealloc=false",
                          m_spec.memory_mb),
             "-object",
             base::format("sev-snp-guest,id=sev0,policy=0x30000,sev-device=/dev/sev,kernel-hashes=on,"
                          "host-data={},cbitpos={},reduced-phys-bits={}",
                          base::to_base64(m_spec.host_data), m_spec.cbitpos, m_spec.reduced_phys_bits),
             "-machine",
             "q35,kernel-irqchip=split,confidential-guest-support=sev0,memory-backend=ram1,hpet=off"});
        break;
    }
  }

  std::string tdx_object() const {
    nlohmann::ordered_json object;
    object["qom-type"] = "tdx-guest";
    object["id"] = "tdx";
    if (!m_spec.mr_config_id.empty()) {
      object["mrconfigid"] = base::to_base64(m_spec.mr_config_id);
    }
    if (m_spec.qgs_port) {
      nlohmann::ordered_json socket;
      socket["type"] = "vsock";
      socket["cid"] = "2";
      socket["port"] = std::to_string(*m_spec.qgs_port);
      object["quote-generation-socket"] = std::move(socket);
    }
    return object.dump();
  }

  const LaunchSpec& m_spec;
  bool m_pass_files;
  Argv m_argv;
  Argv m_passed;
  std::vector<PassedFile> m_files;
};

}  // namespace

std::uint32_t Accelerator::effective_vcpus(std::uint32_t wanted) const {
  if (!kvm && old_tcg) {
    return 1;
  }
  return std::max<std::uint32_t>(wanted, 1);
}

std::string mac_address(std::string_view vm_id, unsigned index, base::ByteView prefix) {
  const auto hash = crypto::sha256_hex(index == 0 ? std::string(vm_id) : base::format("{}:{}", vm_id, index));
  base::Bytes bytes(prefix.begin(),
                    prefix.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(prefix.size(), 3)));
  const auto tail = base::from_hex(hash).value_or(base::Bytes(32));
  bytes.insert(bytes.end(), tail.begin(), tail.end());
  bytes.resize(6);
  bytes[0] = static_cast<std::uint8_t>((bytes[0] & 0xfeU) | 0x02U);
  std::string out;
  for (const auto byte : bytes) {
    out += base::format("{}{:02x}", out.empty() ? "" : ":", byte);
  }
  return out;
}

std::vector<std::string> qemu_argv(const LaunchSpec& spec) {
  return Builder(spec, /*pass_files=*/false).build().argv;
}

QemuCommand qemu_command(const LaunchSpec& spec) {
  return Builder(spec, /*pass_files=*/true).build();
}

ResourceLimits qemu_limits(const LaunchSpec& spec) {
  const bool emulated = spec.tee == TeeMode::simulated && !spec.accelerator.kvm;
  ResourceLimits limits;
  // Page tables and the like grow with the guest.
  limits.memory_bytes = (std::uint64_t{spec.memory_mb} + spec.memory_mb / 32 + k_qemu_mebibytes +
                         (emulated ? k_translation_mebibytes : 0)) *
                        k_mebibyte;
  limits.tasks = k_qemu_threads + spec.vcpus;
  // One more for its disks and network.
  limits.cpu_percent = (spec.vcpus + 1) * 100;
  return limits;
}

}  // namespace dstack::vmm
