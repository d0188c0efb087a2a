#include "vmm/manager.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <sys/socket.h>

#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "crypto/hash.h"
#include "unit/vmm/lab.h"

namespace dstack::vmm {
namespace {

using base::Code;
using lab::create;
using lab::entries;
using lab::Lab;
using lab::read;
using lab::request;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

std::uint16_t free_port() {
  return *pick_loopback_port();
}

TEST(VmManager, CreateWritesWhatTheGuestNeedsAndStarts) {
  Lab lab;
  lab.restart();
  lab.config.kms_urls = {"https://10.0.2.2:9100"};
  lab.restart();
  auto what = request(free_port());
  what.set_user_config("user text");
  const auto id = create(lab, what);
  EXPECT_EQ(lab.status(id), "running");

  const auto shared = lab.vm(id) / "shared";
  EXPECT_EQ(read(shared / "app-compose.json"), what.compose_file()) << "the bytes as they came";
  EXPECT_EQ(read(shared / ".user-config"), "user text");
  EXPECT_FALSE(fs::exists(shared / ".encrypted-env"));
  EXPECT_FALSE(fs::exists(shared / ".instance_info"));
  const auto sys = json::parse(read(shared / ".sys-config.json"));
  EXPECT_EQ(sys["kms_urls"], json({"https://10.0.2.2:9100"}));
  EXPECT_EQ(sys["host_api_url"], "http://10.0.2.2:10000/api");
  EXPECT_EQ(sys["host_api_token"].get<std::string>().size(), 64U);
  const auto vm_config = json::parse(sys["vm_config"].get<std::string>());
  EXPECT_EQ(vm_config["os_image_hash"], std::string(64, 'd'));
  EXPECT_EQ(vm_config["cpu_count"], 1) << "old TCG gives one CPU";
  EXPECT_EQ(vm_config["memory_size"], 1024ULL * 1024 * 1024);
  EXPECT_EQ(json::parse(read(shared / ".tee-simulator.json")),
            (json{{"platform", "tdx"}, {"mock_attestation_seed", std::string(64, 'a')}}));
  EXPECT_EQ(fs::file_size(lab.vm(id) / "shared.img"), 128U * 1024 * 1024);
  EXPECT_EQ(read(lab.vm(id) / "hda.img"), "5G");
  EXPECT_EQ(fs::status(lab.vm(id)).permissions(), fs::perms::owner_all);

  const auto view = *lab.manager->find(id);
  EXPECT_EQ(view.manifest.app_id, crypto::sha256_hex(what.compose_file()).substr(0, 40));
  EXPECT_EQ(view.progress.boot_progress, "booting");
  EXPECT_EQ(view.image_version, "0.6.0");
  std::string argv;
  for (const auto& word : lab.processes.last.argv) {
    argv += word + "\n";
  }
  EXPECT_THAT(argv, HasSubstr(base::format("hostfwd=tcp:127.0.0.1:{}-:80", what.ports(0).host_port())));
  EXPECT_THAT(argv, HasSubstr("-:8091"));
  // E9: secrets are not in the arguments.
  EXPECT_EQ(argv.find(sys["host_api_token"].get<std::string>()), std::string::npos);
  EXPECT_EQ(argv.find(std::string(64, 'a')), std::string::npos);
}

TEST(VmManager, CreateStoppedDoesNotStart) {
  Lab lab;
  lab.restart();
  auto what = request();
  what.set_stopped(true);
  what.set_app_id("0xABCDEFabcdef0123456789012345678901234567");
  const auto id = create(lab, what);
  EXPECT_EQ(lab.status(id), "stopped");
  EXPECT_EQ(lab.processes.starts, 0);
  EXPECT_EQ(lab.manager->find(id)->manifest.app_id, "abcdefabcdef0123456789012345678901234567");
  EXPECT_EQ(read(lab.vm(id) / "shared/.instance_info"),
            R"({"app_id":"abcdefabcdef0123456789012345678901234567"})");
  ASSERT_TRUE(lab.manager->start(id));
  EXPECT_EQ(lab.status(id), "running");
}

TEST(VmManager, RefusedRequestsLeaveNothing) {
  Lab lab;
  lab.config.port_mapping.ranges = {{"tcp", 1000, 20000}};
  lab.restart();
  const auto refused = [&](Code code, const char* word, auto change) {
    auto what = request(18080);
    change(what);
    const auto id = lab.manager->create(what);
    ASSERT_FALSE(id) << word;
    EXPECT_EQ(id.error().code, code) << id.error().what();
    EXPECT_THAT(id.error().what(), HasSubstr(word));
  };
  using V = ::vmm::VmConfiguration;
  refused(Code::vm_request, "Invalid name", [](V& v) { v.set_name("a/b"); });
  refused(Code::vm_request, "Invalid name", [](V& v) { v.set_name("<script>"); });
  refused(Code::vm_port_denied, "not allowed for tcp:80",
          [](V& v) { v.mutable_ports(0)->set_host_port(80); });
  refused(Code::vm_port_denied,
          "not allowed for udp:", [](V& v) { v.mutable_ports(0)->set_protocol("udp"); });
  refused(Code::vm_request, "neither tcp nor udp", [](V& v) { v.mutable_ports(0)->set_protocol("sctp"); });
  refused(Code::vm_request, "within 1 to 65535", [](V& v) { v.mutable_ports(0)->set_host_port(70000); });
  refused(Code::vm_request, "not an IP",
          [](V& v) { v.mutable_ports(0)->set_host_address("1.2.3.4,hostfwd=x"); });
  refused(Code::vm_request, "duplicate host port mapping", [](V& v) {
    *v.add_ports() = v.ports(0);
    v.mutable_ports(1)->set_host_address("0.0.0.0");
  });
  refused(Code::bad_app_compose, "", [](V& v) { v.set_compose_file("not json"); });
  refused(Code::image_not_found, "dstack-9", [](V& v) { v.set_image("dstack-9"); });
  refused(Code::vm_request, "vCPUs", [](V& v) { v.set_vcpu(21); });
  refused(Code::vm_request, "memory", [](V& v) { v.set_memory(0); });
  refused(Code::vm_request, "memory", [](V& v) { v.set_memory(4'000'000'000U); });
  refused(Code::vm_request, "disk", [](V& v) { v.set_disk_size(0); });
  refused(Code::vm_request, "app_id", [](V& v) { v.set_app_id("../../etc"); });
  refused(Code::vm_request, "TEE variant", [](V& v) { v.set_simulated_tee("sgx"); });
  refused(Code::unsupported, "no_tee", [](V& v) { v.set_no_tee(true); });
  refused(Code::unsupported, "GPU", [](V& v) { v.mutable_gpus()->set_attach_mode("all"); });
  refused(Code::unsupported, "network", [](V& v) { v.add_networks()->set_mode("bridge"); });
  refused(Code::vm_request, "URL", [](V& v) { v.add_kms_urls("file:///etc/passwd"); });
  for (const auto* name : {"../x", "/etc/passwd", "a,b", "a=b", ""}) {
    auto what = request();
    what.set_image(name);
    EXPECT_FALSE(lab.manager->create(what)) << name;
  }
  lab.config.port_mapping.enabled = false;
  lab.restart();
  refused(Code::vm_port_denied, "disabled", [](V&) {});
  EXPECT_EQ(entries(lab.config.run_path), 0U);
  EXPECT_TRUE(lab.manager->list().empty());
  EXPECT_EQ(lab.processes.starts, 0);
}

TEST(VmManager, AFailedStartTakesTheVmBack) {
  Lab lab;
  lab.restart();
  lab.processes.fail_starts = true;
  const auto id = lab.manager->create(request());
  ASSERT_FALSE(id);
  EXPECT_EQ(id.error().code, Code::vm_start);
  EXPECT_EQ(entries(lab.config.run_path), 0U);
  EXPECT_TRUE(lab.manager->list().empty());
}

TEST(VmManager, PortsOfOtherVmsAndProgramsAreRespected) {
  Lab lab;
  lab.restart();
  const auto port = free_port();
  auto what = request(port);
  what.set_stopped(true);
  const auto id = create(lab, what);
  auto other = lab.manager->create(request(port));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Code::vm_port_taken);
  EXPECT_THAT(other.error().what(), HasSubstr("conflicts with VM " + id)) << "stopped VMs count too";
  what.mutable_ports(0)->set_host_address("0.0.0.0");
  EXPECT_FALSE(lab.manager->create(what));

  // A program of somebody else.
  const base::Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(fd.get(), 1), 0);
  ASSERT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  other = lab.manager->create(request(ntohs(address.sin_port)));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Code::vm_port_taken);
  EXPECT_THAT(other.error().what(), HasSubstr(std::to_string(ntohs(address.sin_port))));
  EXPECT_FALSE(other.error().fix.empty());

  // One that only root may bind, which QEMU is not.
  other = lab.manager->create(request(80));
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().what(), HasSubstr("tcp port 80 on 127.0.0.1 needs a privilege"));
  EXPECT_EQ(entries(lab.config.run_path), 1U);
}

TEST(VmManager, AProcessIsGivenItsFilesOpenAndItsLimits) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  const auto& spec = lab.processes.last;
  ASSERT_GE(spec.files.size(), 6U);
  EXPECT_EQ(spec.files.front().path, lab.vm(id) / "serial.log");
  for (const auto& word : spec.argv) {
    // Paths are named for people, never for QEMU to open.
    EXPECT_TRUE(word.find(lab.directory.path().native()) == std::string::npos ||
                word.find(",opaque=/") != std::string::npos)
        << word;
  }
  EXPECT_GT(spec.limits.memory_bytes, 1024ULL << 20U);
  EXPECT_GT(spec.limits.tasks, 64U);
  EXPECT_GE(spec.limits.cpu_percent, 200U);
  EXPECT_FALSE(spec.kvm);
}

TEST(VmManager, VolumesMustBeFilesOfTheVolumesDirectory) {
  Lab lab;
  const auto volumes = lab.directory.path() / "volumes";
  lab::write(volumes / "good.img", "x");
  lab::write(lab.directory.path() / "secret", "x");
  fs::create_symlink("../secret", volumes / "leads-out");
  const auto with = [](const std::string& source, const std::string& root = std::string(64, '1')) {
    auto what = request();
    what.set_compose_file(lab::compose(base::format(
        R"(,"verity_volumes":[{{"source":"{}","verity_root":"{}","target":"/mnt"}}])", source, root)));
    return what;
  };
  lab.restart();
  EXPECT_THAT(lab.manager->create(with("good.img")).error().what(), HasSubstr("volumes_dir"));
  lab.config.volumes_dir = volumes;
  lab.restart();
  for (const auto* bad : {"absent.img", "leads-out", "../secret", "/etc/passwd", "a,b", "..", ""}) {
    EXPECT_FALSE(lab.manager->create(with(bad))) << bad;
  }
  const auto id = create(lab, with("good.img"));
  EXPECT_THAT(lab.processes.last.argv, testing::Contains(HasSubstr("good.img")));
  const auto sys = json::parse(read(lab.vm(id) / "shared/.sys-config.json"));
  EXPECT_EQ(json::parse(sys["vm_config"].get<std::string>())["num_verity_volumes"], 1);
}

}  // namespace
}  // namespace dstack::vmm
