#include "vmm/qemu_args.h"

#include <gtest/gtest.h>

namespace dstack::vmm {
namespace {

std::string joined(const std::vector<std::string>& argv) {
  std::string out;
  for (const auto& item : argv) {
    // One option per line reads like the specification's table.
    const bool option = item.starts_with("-") && item.size() > 1;
    out += (out.empty() ? "" : option ? "\n" : " ") + item;
  }
  return out;
}

LaunchSpec sample(TeeMode tee) {
  LaunchSpec spec;
  spec.qemu = "/usr/bin/qemu-system-x86_64";
  spec.tee = tee;
  spec.directory = "/vm/vm-123";
  spec.kernel = "/img/bzImage";
  spec.initrd = "/img/initramfs.cpio.gz";
  spec.rootfs = "/img/rootfs.img.parted.verity";
  spec.cmdline = "console=ttyS0 quiet";
  spec.volumes = {"/vol/a.img", "/vol/b.img"};
  Nic nic;
  nic.mac = mac_address("vm-123", 0);
  nic.net = "10.0.2.0/24";
  nic.dhcp_start = "10.0.2.10";
  spec.nics = {nic};
  spec.forwards = {{"tcp", "127.0.0.1", 18080, 80}, {"udp", "0.0.0.0", 5353, 53}};
  spec.vcpus = 2;
  spec.memory_mb = 2048;
  return spec;
}

TEST(QemuArgs, SimulatedUnderOldTcg) {
  auto spec = sample(TeeMode::simulated);
  spec.accelerator = {.kvm = false, .old_tcg = true};
  spec.vcpus = spec.accelerator.effective_vcpus(2);
  EXPECT_EQ(joined(qemu_argv(spec)),
            R"(/usr/bin/qemu-system-x86_64
-accel tcg,thread=single
-cpu max,-cx16,-avx,-avx2,-erms,vendor=AuthenticAMD,family=15,model=5,stepping=0
-nographic
-nodefaults
-no-reboot
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-chardev null,id=com0,logfile=/vm/vm-123/serial.log,logappend=on
-serial chardev:com0
-kernel /img/bzImage
-initrd /img/initramfs.cpio.gz
-drive file=/img/rootfs.img.parted.verity,if=none,id=hd0,format=raw,readonly=on
-device virtio-blk-pci,drive=hd0
-drive file=/vm/vm-123/hda.img,if=none,id=hd1,format=qcow2,discard=unmap,detect-zeroes=unmap
-device virtio-blk-pci,drive=hd1
-drive file=/vol/a.img,if=none,id=vol0,format=raw,readonly=on
-device virtio-blk-pci,drive=vol0
-drive file=/vol/b.img,if=none,id=vol1,format=raw,readonly=on
-device virtio-blk-pci,drive=vol1
-netdev user,id=net0,net=10.0.2.0/24,dhcpstart=10.0.2.10,restrict=no,hostfwd=tcp:127.0.0.1:18080-:80,hostfwd=udp:0.0.0.0:5353-:53
-device virtio-net-pci,netdev=net0,mac=96:b1:d8:b9:08:e6,romfile=
-drive file=/vm/vm-123/shared.img,if=none,id=hd2,format=raw,readonly=on
-device virtio-blk-pci,drive=hd2
-machine q35,hpet=off
-smp 1
-m 2048M
-append console=ttyS0 quiet mitigations=off init_on_alloc=0 psi=0 highres=off noreplace-smp initcall_blacklist=jent_mod_init,trace_eval_init,init_kprobe_trace)");
}

TEST(QemuArgs, FilesGivenOpen) {
  auto spec = sample(TeeMode::simulated);
  spec.bios = "/img/ovmf.fd";
  spec.directory = "/vm/a,b";
  spec.volumes = {"/vol/a.img"};
  const auto command = qemu_command(spec);
  using Access = PassedFile::Access;
  const std::vector<PassedFile> files = {{"/vm/a,b/serial.log", Access::append, false, 100},
                                         {"/img/ovmf.fd", Access::read, true, 101},
                                         {"/img/bzImage", Access::read, true, 102},
                                         {"/img/initramfs.cpio.gz", Access::read, true, 103},
                                         {"/img/rootfs.img.parted.verity", Access::read, false, 104},
                                         {"/vm/a,b/hda.img", Access::write, false, 105},
                                         {"/vm/a,b/hda.img", Access::read, false, 106},
                                         {"/vol/a.img", Access::read, false, 107},
                                         {"/vm/a,b/shared.img", Access::read, false, 108}};
  EXPECT_EQ(command.files, files);
  const auto text = joined(command.argv);
  EXPECT_TRUE(text.starts_with(R"(/usr/bin/qemu-system-x86_64
-add-fd fd=100,set=100,opaque=/vm/a,,b/serial.log
-add-fd fd=104,set=104,opaque=/img/rootfs.img.parted.verity
-add-fd fd=105,set=105,opaque=/vm/a,,b/hda.img
-add-fd fd=106,set=105,opaque=/vm/a,,b/hda.img
-add-fd fd=107,set=107,opaque=/vol/a.img
-add-fd fd=108,set=108,opaque=/vm/a,,b/shared.img
-name a,,b
)")) << text;
  for (const auto* line :
       {"logfile=/dev/fdset/100,logappend=on\n", "-bios /proc/self/fd/101\n-kernel /proc/self/fd/102\n",
        "-initrd /proc/self/fd/103\n", "file=/dev/fdset/104,if=none,id=hd0,format=raw,readonly=on\n",
        "file=/dev/fdset/105,if=none,id=hd1,format=qcow2", "file=/dev/fdset/107,if=none,id=vol0",
        "file=/dev/fdset/108,if=none,id=hd2,format=raw,readonly=on\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << " is not in " << text;
  }
  // The same machine otherwise: what is measured is the same.
  auto without = command.argv;
  without.erase(without.begin() + 1, without.begin() + 15);
  EXPECT_EQ(without.size(), qemu_argv(spec).size());
}

TEST(QemuArgs, LimitsLeaveRoomForQemuItself) {
  auto spec = sample(TeeMode::simulated);
  spec.accelerator = {.kvm = true, .old_tcg = false};
  EXPECT_EQ(qemu_limits(spec), (ResourceLimits{(2048ULL + 64 + 512) << 20U, 162, 300}));
  spec.accelerator.kvm = false;
  EXPECT_EQ(qemu_limits(spec).memory_bytes, (2048ULL + 64 + 512 + 1024) << 20U);
  spec.tee = TeeMode::tdx;
  EXPECT_EQ(qemu_limits(spec).memory_bytes, (2048ULL + 64 + 512) << 20U);
}

TEST(QemuArgs, SimulatedOnOtherMachines) {
  auto spec = sample(TeeMode::simulated);
  spec.accelerator = {.kvm = false, .old_tcg = false};
  auto text = joined(qemu_argv(spec));
  EXPECT_NE(text.find("-accel tcg\n-cpu max,-avx,-avx2,-erms,"), std::string::npos);
  EXPECT_NE(text.find("-smp 2\n"), std::string::npos);
  EXPECT_EQ(spec.accelerator.effective_vcpus(4), 4U);
  EXPECT_EQ(spec.accelerator.effective_vcpus(0), 1U);

  spec.accelerator = {.kvm = true, .old_tcg = true};
  text = joined(qemu_argv(spec));
  EXPECT_NE(text.find("-accel kvm\n-cpu host\n"), std::string::npos);
  EXPECT_NE(text.find("-machine q35,kernel-irqchip=split,hpet=off\n"), std::string::npos);
  EXPECT_EQ(text.find("mitigations=off"), std::string::npos) << "a real processor speculates";
  EXPECT_EQ(text.find("vsock"), std::string::npos);
}

TEST(QemuArgs, Tdx) {
  auto spec = sample(TeeMode::tdx);
  spec.bios = "/img/ovmf.fd";
  spec.vsock_cid = 1000;
  spec.share = ShareMode::p9;
  spec.share_read_only = true;
  spec.mr_config_id = base::Bytes(48, 0);
  spec.mr_config_id[0] = 1;
  spec.qgs_port = 4050;
  spec.smbios = {
      {0, {}}, {1, {{"manufacturer", "dstack"}, {"product", "a,b"}}}, {2, {{"manufacturer", "m"}}}};
  EXPECT_EQ(joined(qemu_argv(spec)),
            R"(/usr/bin/qemu-system-x86_64
-accel kvm
-cpu host
-nographic
-nodefaults
-chardev pty,id=com0,path=/vm/vm-123/serial.pty,logfile=/vm/vm-123/serial.log,logappend=on
-serial chardev:com0
-bios /img/ovmf.fd
-kernel /img/bzImage
-initrd /img/initramfs.cpio.gz
-drive file=/img/rootfs.img.parted.verity,if=none,id=hd0,format=raw,readonly=on
-device virtio-blk-pci,drive=hd0
-drive file=/vm/vm-123/hda.img,if=none,id=hd1
-device virtio-blk-pci,drive=hd1
-drive file=/vol/a.img,if=none,id=vol0,format=raw,readonly=on
-device virtio-blk-pci,drive=vol0
-drive file=/vol/b.img,if=none,id=vol1,format=raw,readonly=on
-device virtio-blk-pci,drive=vol1
-netdev user,id=net0,net=10.0.2.0/24,dhcpstart=10.0.2.10,restrict=no,hostfwd=tcp:127.0.0.1:18080-:80,hostfwd=udp:0.0.0.0:5353-:53
-device virtio-net-pci,netdev=net0,mac=96:b1:d8:b9:08:e6
-smbios type=1,manufacturer=dstack,product=a,,b
-smbios type=2,manufacturer=m
-device vhost-vsock-pci,guest-cid=1000
-virtfs local,path=/vm/vm-123/shared,mount_tag=host-shared,readonly=on,security_model=mapped,id=virtfs0
-machine q35,kernel-irqchip=split,confidential-guest-support=tdx,hpet=off
-object {"qom-type":"tdx-guest","id":"tdx","mrconfigid":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","quote-generation-socket":{"type":"vsock","cid":"2","port":"4050"}}
-smp 2
-m 2048M
-append console=ttyS0 quiet)");
}

TEST(QemuArgs, TdxWithoutMrConfigIdAndQgs) {
  const auto text = joined(qemu_argv(sample(TeeMode::tdx)));
  EXPECT_NE(text.find("-object {\"qom-type\":\"tdx-guest\",\"id\":\"tdx\"}"), std::string::npos);
}

TEST(QemuArgs, SevSnp) {
  auto spec = sample(TeeMode::sev_snp);
  spec.bios = "/img/ovmf-sev.fd";
  spec.volumes.clear();
  spec.vsock_cid = 1001;
  spec.host_data = base::Bytes(32, 0x11);
  spec.swtpm_socket = "/vm/vm-123/swtpm/swtpm.sock";
  spec.qmp_socket = true;
  EXPECT_EQ(joined(qemu_argv(spec)),
            R"(/usr/bin/qemu-system-x86_64
-accel kvm
-cpu EPYC-v4
-nographic
-nodefaults
-chardev pty,id=com0,path=/vm/vm-123/serial.pty,logfile=/vm/vm-123/serial.log,logappend=on
-serial chardev:com0
-qmp unix:/vm/vm-123/qmp.sock,server,wait=off
-bios /img/ovmf-sev.fd
-kernel /img/bzImage
-initrd /img/initramfs.cpio.gz
-drive file=/img/rootfs.img.parted.verity,if=none,id=hd0,format=raw,readonly=on
-device virtio-blk-pci,drive=hd0,disable-legacy=on,iommu_platform=true
-drive file=/vm/vm-123/hda.img,if=none,id=hd1
-device virtio-blk-pci,drive=hd1,disable-legacy=on,iommu_platform=true
-netdev user,id=net0,net=10.0.2.0/24,dhcpstart=10.0.2.10,restrict=no,hostfwd=tcp:127.0.0.1:18080-:80,hostfwd=udp:0.0.0.0:5353-:53
-device virtio-net-pci,netdev=net0,mac=96:b1:d8:b9:08:e6,disable-legacy=on,iommu_platform=true
-chardev socket,id=chrtpm,path=/vm/vm-123/swtpm/swtpm.sock
-tpmdev emulator,id=tpm0,chardev=chrtpm
-device tpm-tis,tpmdev=tpm0
-device vhost-vsock-pci,guest-cid=1001,disable-legacy=on,iommu_platform=true
-drive file=/vm/vm-123/shared.img,if=none,id=hd2,format=raw,readonly=on
-device virtio-blk-pci,drive=hd2,disable-legacy=on,iommu_platform=true
-object memory-backend-memfd,id=ram1,size=2048M,share=true,prealloc=false
-object sev-snp-guest,id=sev0,policy=0x30000,sev-device=/dev/sev,kernel-hashes=on,host-data=ERERERERERERERERERERERERERERERERERERERERERE=,cbitpos=51,reduced-phys-bits=1
-machine q35,kernel-irqchip=split,confidential-guest-support=sev0,memory-backend=ram1,hpet=off
-smp 2
-m 2048M
-append console=ttyS0 quiet)");
}

TEST(QemuArgs, NoTee) {
  auto spec = sample(TeeMode::none);
  spec.volumes.clear();
  spec.vsock_cid = 1002;
  spec.share = ShareMode::vvfat;
  spec.hotplug_off = true;
  spec.pci_hole64_size = 0x100000000;
  Nic bridge;
  bridge.mode = Nic::Mode::bridge;
  bridge.bridge = "br0";
  bridge.mac = mac_address("vm-123", 0);
  auto user = spec.nics[0];
  user.mac = mac_address("vm-123", 1);
  user.restrict_guest = true;
  Nic custom;
  custom.mode = Nic::Mode::custom;
  custom.netdev = "tap,id=net2,fd=9";
  custom.mac = mac_address("vm-123", 2);
  spec.nics = {bridge, user, custom};
  spec.cmdline.clear();
  EXPECT_EQ(joined(qemu_argv(spec)),
            "/usr/bin/qemu-system-x86_64\n-accel kvm\n-cpu host\n-nographic\n-nodefaults\n"
            "-chardev pty,id=com0,path=/vm/vm-123/serial.pty,logfile=/vm/vm-123/serial.log,logappend=on\n"
            "-serial chardev:com0\n-kernel /img/bzImage\n-initrd /img/initramfs.cpio.gz\n"
            "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off\n"
            "-global q35-pcihost.pci-hole64-size=0x100000000\n"
            "-drive file=/img/rootfs.img.parted.verity,if=none,id=hd0,format=raw,readonly=on\n"
            "-device virtio-blk-pci,drive=hd0\n-drive file=/vm/vm-123/hda.img,if=none,id=hd1\n"
            "-device virtio-blk-pci,drive=hd1\n-netdev bridge,id=net0,br=br0\n"
            "-device virtio-net-pci,netdev=net0,mac=96:b1:d8:b9:08:e6\n"
            "-netdev user,id=net1,net=10.0.2.0/24,dhcpstart=10.0.2.10,restrict=yes,"
            "hostfwd=tcp:127.0.0.1:18080-:80,hostfwd=udp:0.0.0.0:5353-:53\n"
            "-device virtio-net-pci,netdev=net1,mac=c6:74:2c:65:14:b9\n-netdev tap,id=net2,fd=9\n"
            "-device virtio-net-pci,netdev=net2,mac=" +
                mac_address("vm-123", 2) +
                "\n-device vhost-vsock-pci,guest-cid=1002\n"
                "-blockdev driver=vvfat,node-name=vvfat0,read-only=on,dir=/vm/vm-123/shared,label=DSTACKSHR\n"
                "-device virtio-blk-pci,drive=vvfat0\n-machine q35,kernel-irqchip=split,hpet=off\n-smp 2\n-m "
                "2048M");
}

// D1: what a path holds cannot become another option.
TEST(QemuArgs, CommasInPathsAreEscaped) {
  auto spec = sample(TeeMode::simulated);
  spec.directory = "/vm/a,readonly=off";
  spec.volumes = {"/vol/x,if=scsi"};
  const auto text = joined(qemu_argv(spec));
  EXPECT_NE(text.find("file=/vol/x,,if=scsi,if=none"), std::string::npos);
  EXPECT_NE(text.find("file=/vm/a,,readonly=off/hda.img,if=none"), std::string::npos);
  EXPECT_NE(text.find("logfile=/vm/a,,readonly=off/serial.log,logappend"), std::string::npos);
}

TEST(QemuArgs, Ipv6ForwardsAreBracketed) {
  auto spec = sample(TeeMode::simulated);
  spec.forwards = {{"tcp", "::1", 8080, 80}};
  EXPECT_NE(joined(qemu_argv(spec)).find("hostfwd=tcp:[::1]:8080-:80"), std::string::npos);
}

TEST(MacAddress, Vectors) {
  EXPECT_EQ(mac_address("vm-123", 0), "96:b1:d8:b9:08:e6");
  EXPECT_EQ(mac_address("vm-123", 1), "c6:74:2c:65:14:b9");
  EXPECT_EQ(mac_address("3f2504e0-4f89-41d3-9a0c-0305e82c3301", 0, base::Bytes{0x02, 0xab, 0xcd}),
            "02:ab:cd:16:36:2f");
}

}  // namespace
}  // namespace dstack::vmm
