#include "host/coexistence.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

namespace fs = std::filesystem;

// spec/host.md section 1.4.
TEST(CidWindow, Vectors) {
  EXPECT_EQ(*choose_cid_start(std::nullopt, {}), 1000U);
  EXPECT_EQ(*choose_cid_start(std::nullopt, {{2000, 3000}}), 1000U);
  EXPECT_EQ(*choose_cid_start(std::nullopt, {{1000, 2000}}), 2000U);
  EXPECT_EQ(*choose_cid_start(std::nullopt, {{1000, 2000}, {2500, 2501}}), 3000U);
  EXPECT_EQ(*choose_cid_start(4000, {{1000, 2000}}), 4000U);
  const auto refused = choose_cid_start(1500, {{1000, 2000}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::cid_conflict);
  EXPECT_NE(refused.error().fix.find("2000"), std::string::npos);
}

TEST(CidWindow, Edges) {
  // A window that ends at 2^32, one that begins at the very top, and one that covers a window's middle.
  EXPECT_FALSE(choose_cid_start(4294966296U, {{4294967295U, 4294967296U}}));
  EXPECT_EQ(*choose_cid_start(4294965000U, {{4294967295U, 4294967296U}}), 4294965000U);
  EXPECT_FALSE(choose_cid_start(1000, {{1400, 1500}}));
  EXPECT_FALSE(choose_cid_start(1400, {{1000, 9000}}));
  EXPECT_FALSE(choose_cid_start(4294967295U, {}));
  EXPECT_FALSE(choose_cid_start(2, {})) << "0 to 2 have meanings of their own";
  EXPECT_EQ(*choose_cid_start(3, {}), 3U);
  EXPECT_EQ(*choose_cid_start(std::nullopt, {{3, 1001}}), 2000U);
  // Touching is not overlapping.
  EXPECT_EQ(*choose_cid_start(2000, {{1000, 2000}, {3000, 4000}}), 2000U);
  EXPECT_FALSE(choose_cid_start(2001, {{3000, 4000}}));
  EXPECT_FALSE(choose_cid_start(std::nullopt, {{1999, 2000}}) == 1000U);
  // A stray CID at the top of the range leaves no block above it, but there are some below.
  EXPECT_EQ(*choose_cid_start(std::nullopt, {{1000, 2000}, {4294967295U, 4294967296U}}), 2000U);
  EXPECT_EQ(*choose_cid_start(4294966296U, {}), 4294966296U);
  EXPECT_FALSE(choose_cid_start(4294966297U, {}));
  EXPECT_FALSE(choose_cid_start(0, {}));
  EXPECT_FALSE(choose_cid_start(std::nullopt, {{0, 4294967296U}}));
}

TEST(OtherVmms, ConfigScan) {
  EXPECT_EQ(read_cid_pool("cid_start = 2000\n"), (CidRange{2000, 3000}));
  EXPECT_EQ(read_cid_pool("  cid_start=5 # five\ncid_pool_size = 7\n"), (CidRange{5, 12}));
  EXPECT_EQ(read_cid_pool("cid_start = 4294967295\n"), (CidRange{4294967295U, 4294967296U}));
  EXPECT_EQ(read_cid_pool("#cid_start = 1\n"), std::nullopt);
  EXPECT_EQ(read_cid_pool("cid_start = \"1\"\n"), std::nullopt);
  EXPECT_EQ(read_cid_pool(""), std::nullopt);
  EXPECT_EQ(
      read_host_api_port("port = 1\n[host_api]\nident = \"x\"\nport = 10000\nport = 3\n[x]\nport = 4\n"),
      10000U);
  EXPECT_EQ(read_host_api_port("[host_api.x]\nport = 1\n"), std::nullopt);
  using Ports = std::vector<std::uint16_t>;
  EXPECT_EQ(read_kms_ports("[cvm]\nkms_urls = [\"https://10.0.2.2:12443\", 'https://[::1]:12444/prpc']\n"),
            (Ports{12443, 12444}));
  EXPECT_EQ(read_kms_ports("kms_urls = []\n#kms_urls = [\"https://a:1\"]\ngateway_urls = [\"https://a:2\"]"),
            Ports());
  EXPECT_EQ(read_kms_ports("kms_urls = [\"https://a\", \"https://a:x\", \"https://a:65536\", \"://\", \"\n"),
            Ports());
}

class Proc {
 public:
  void add(int pid, const std::vector<std::string>& argv) const {
    const auto path = dir / std::to_string(pid);
    fs::create_directories(path);
    std::ofstream out(path / "cmdline", std::ios::binary);
    for (const auto& argument : argv) {
      out << argument << '\0';
    }
  }
  test::TempDir dir;
};

TEST(OtherVmms, ScanFindsThemAndNotOurs) {
  const test::TempDir files;
  const OwnInstall own{files / "etc/dstack/vmm.toml", files / "var/lib/dstack/vm", {}};
  std::ofstream(files / "other.toml") << "[cvm]\ncid_start = 1000\n[host_api]\nport = 10000\n";
  const Proc proc;
  fs::create_directories(proc.dir / "self");
  fs::create_directories(proc.dir / "77");  // a kernel thread: no cmdline
  proc.add(10, {"/usr/libexec/dstack-vmm", "-c", (files / "other.toml").string()});
  proc.add(11, {"dstack-vmm", "--config", (files / "gone.toml").string()});
  proc.add(12, {"/opt/dstack-vmm", "-c", own.vmm_toml.string()});
  proc.add(13, {"grep", "dstack-vmm", "-c", (files / "other.toml").string()});
  proc.add(14, {"qemu-system-x86_64", "-device", "vhost-vsock-pci,id=v,guest-cid=2500", "x"});
  proc.add(15, {"qemu-system-x86_64", "-device", "vhost-vsock-pci,guest-cid=1001", "-drive",
                "file=" + (own.vms / "abc/disk").string()});
  proc.add(16, {"x", "guest-cid=4294967295", "guest-cid=4294967296", "guest-cid=-1", "xguest-cid=5"});
  const auto found = scan_other_vmms(own, proc.dir.path());
  EXPECT_EQ(found.vmms.size(), 2U);
  EXPECT_EQ(found.cids, (std::vector<CidRange>{{1000, 2000}, {2500, 2501}, {4294967295U, 4294967296U}}));
  EXPECT_EQ(found.host_api_ports, std::vector<std::uint32_t>{10000});
}

TEST(OtherVmms, RelativeConfigMeansTheirDirectory) {
  const test::TempDir files;
  std::ofstream(files / "vmm.toml") << "cid_start = 7000\n";
  const Proc proc;
  proc.add(10, {"dstack-vmm", "-c", "vmm.toml"});
  fs::create_symlink(files.path(), proc.dir / "10/cwd");
  const auto found = scan_other_vmms({}, proc.dir.path());
  EXPECT_EQ(found.cids, (std::vector<CidRange>{{7000, 8000}}));
}

// Our own VMM by another spelling of its path, our own VMs by their process.
TEST(OtherVmms, OursByAnotherName) {
  const test::TempDir files;
  std::ofstream(files / "vmm.toml") << "cid_start = 7000\n[host_api]\nport = 10000\n";
  fs::create_directories(files / "link");
  fs::create_symlink(files / "vmm.toml", files / "link/vmm.toml");
  const Proc proc;
  proc.add(10, {"dstack-vmm", "-c", (files / "link/vmm.toml").string()});
  proc.add(11, {"dstack-vmm", "-c", "vmm.toml"});
  fs::create_symlink(files.path(), proc.dir / "11/cwd");
  proc.add(12, {"qemu-system-x86_64", "-device", "vhost-vsock-pci,guest-cid=1001"});
  proc.add(13, {"qemu-system-x86_64", "-device", "vhost-vsock-pci,guest-cid=1002"});
  OwnInstall own{files / "vmm.toml", files / "vm", {12}};
  const auto found = scan_other_vmms(own, proc.dir.path());
  EXPECT_TRUE(found.vmms.empty());
  EXPECT_TRUE(found.host_api_ports.empty());
  EXPECT_EQ(found.cids, (std::vector<CidRange>{{1002, 1003}}));
  own.vmm_toml = files / "other.toml";
  EXPECT_EQ(scan_other_vmms(own, proc.dir.path()).vmms.size(), 2U);
}

TEST(OtherVmms, MissingProcIsEmpty) {
  EXPECT_TRUE(scan_other_vmms({}, "/nonexistent").vmms.empty());
}

}  // namespace
}  // namespace dstack::host
