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
using lab::Lab;
using lab::read;
using lab::request;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

std::string create(Lab& lab, const ::vmm::VmConfiguration& what) {
  const auto id = lab.manager->create(what);
  EXPECT_TRUE(id) << id.error().what();
  return id.value_or("");
}

std::size_t entries(const fs::path& directory) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(directory)) {
    count += entry.path().filename() != ".lock" ? 1 : 0;
  }
  return count;
}

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

TEST(VmManager, StopStartRemove) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  ASSERT_TRUE(lab.manager->start(id)) << "starting a running VM changes nothing";
  EXPECT_EQ(lab.processes.starts, 1);
  ASSERT_TRUE(lab.manager->stop(id));
  EXPECT_EQ(lab.status(id), "stopped");
  EXPECT_FALSE(fs::exists(lab.vm(id) / "qemu.json"));
  lab.clock.advance(100'000);
  lab.manager->tick();
  EXPECT_EQ(lab.processes.starts, 1) << "a stopped VM is not restarted";
  ASSERT_TRUE(lab.manager->start(id));
  EXPECT_EQ(lab.processes.starts, 2);
  ASSERT_TRUE(lab.manager->remove(id));
  lab.manager->tick();
  EXPECT_EQ(lab.status(id), "gone");
  EXPECT_EQ(entries(lab.config.run_path), 0U);
  EXPECT_EQ(lab.manager->remove(id).error().code, Code::vm_not_found);
  EXPECT_EQ(lab.manager->stop("../etc").error().code, Code::vm_not_found);
}

TEST(VmManager, RemovalWaitsForTheProcessAndSurvivesARestart) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  lab.processes.ignores_kill = true;
  ASSERT_TRUE(lab.manager->remove(id));
  EXPECT_EQ(lab.status(id), "removing");
  EXPECT_EQ(lab.manager->start(id).error().code, Code::vm_state);
  lab.processes.survivors[100] = true;
  lab.restart();
  EXPECT_EQ(lab.status(id), "removing");
  lab.processes.ignores_kill = false;
  lab.manager->tick();
  EXPECT_FALSE(lab.processes.running(id)) << "the new VM manager finishes the job";
  lab.manager->tick();
  EXPECT_EQ(lab.status(id), "gone");
}

TEST(VmManager, AVmThatEndsByItselfIsNoticedAndRestartedWithBackOff) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  lab::write(lab.vm(id) / "serial.log", "Booting\n[    1.0] Kernel panic - not syncing\n\n");
  lab.clock.advance(3'000);
  lab.processes.end(id, 0);
  EXPECT_EQ(lab.status(id), "exited");
  auto view = *lab.manager->find(id);
  EXPECT_THAT(view.progress.boot_error, HasSubstr("ended by itself after 3 s"));
  EXPECT_THAT(view.progress.boot_error, HasSubstr("Kernel panic"));
  EXPECT_EQ(view.events.back().event, "vmm.exited");

  std::vector<int> starts;
  for (int second = 0; second < 60; ++second) {
    const int before = lab.processes.starts;
    lab.manager->tick();
    if (lab.processes.starts > before) {
      starts.push_back(second);
      lab.processes.end(id, 1);
    }
    lab.clock.advance(1'000);
  }
  EXPECT_THAT(starts, ElementsAre(2, 6, 11));
  view = *lab.manager->find(id);
  EXPECT_EQ(view.status, "exited");
  EXPECT_EQ(view.events.back().event, "vmm.auto_restart.exhausted");
  ASSERT_TRUE(lab.manager->start(id));
  EXPECT_EQ(lab.status(id), "running");
}

TEST(VmManager, AFailedRestartIsShownAndCounts) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  fs::remove_all(lab.config.image_path / "dstack-0.6.0");
  lab.processes.end(id, 0);
  for (int second = 0; second < 60; ++second) {
    lab.manager->tick();
    lab.clock.advance(1'000);
  }
  const auto view = *lab.manager->find(id);
  EXPECT_THAT(view.progress.boot_error, HasSubstr("dstack-0.6.0"));
  EXPECT_EQ(view.events.back().event, "vmm.auto_restart.exhausted");
}

TEST(VmManager, GuestEvents) {
  Lab lab;
  lab.config.event_buffer_size = 3;
  lab.restart();
  const auto id = create(lab, request());
  ASSERT_TRUE(lab.manager->notify(id, "boot.progress", "requesting app keys"));
  ASSERT_TRUE(lab.manager->notify(id, "boot.error", "denied\x1b[31m"));
  ASSERT_TRUE(lab.manager->notify(id, "instance.info", R"({"instance_id":"aabb","app_id":"cc"})"));
  EXPECT_FALSE(lab.manager->notify(id, "instance.info", "not json"));
  ASSERT_TRUE(lab.manager->notify(id, "boot.progress", std::string(4097, 'x'))) << "too long: dropped";
  ASSERT_TRUE(lab.manager->notify(id, "something else", "x"));
  auto view = *lab.manager->find(id);
  EXPECT_EQ(view.progress.boot_progress, "requesting app keys");
  EXPECT_EQ(view.progress.boot_error.find('\x1b'), std::string::npos);
  EXPECT_EQ(view.instance_id, "aabb");
  EXPECT_EQ(view.events.size(), 3U);
  EXPECT_EQ(view.events.back().event, "something else");
  EXPECT_EQ(read(lab.vm(id) / "shared/.instance_info"), R"({"instance_id":"aabb","app_id":"cc"})");

  // Progress outlives the VM manager.
  lab.processes.survivors[100] = true;
  lab.restart();
  EXPECT_EQ(lab.manager->find(id)->progress.boot_progress, "requesting app keys");
  EXPECT_EQ(lab.manager->find(id)->instance_id, "aabb");
  EXPECT_EQ(lab.manager->notify("other", "boot.progress", "x").error().code, Code::vm_not_found);
}

TEST(VmManager, AGuestThatPowersOffStaysStopped) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  ASSERT_TRUE(lab.manager->notify(id, "shutdown.progress", "powering off"));
  EXPECT_EQ(lab.status(id), "stopping");
  lab.processes.end(id, 0);
  EXPECT_EQ(lab.status(id), "stopped");
  EXPECT_TRUE(lab.manager->find(id)->progress.boot_error.empty());
}

TEST(VmManager, ShutdownAsksTheGuest) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  lab.guest_silent = true;
  const auto refused = lab.manager->shutdown(id);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::guest_unreachable);
  EXPECT_THAT(refused.error().fix, HasSubstr("StopVm"));
  EXPECT_EQ(lab.status(id), "running");
  lab.guest_silent = false;
  ASSERT_TRUE(lab.manager->shutdown(id));
  EXPECT_NE(lab.shutdown_port, 0);
  EXPECT_EQ(lab.manager->vm_of_token(lab.shutdown_token), id);
  lab.processes.end(id, 0);
  EXPECT_EQ(lab.status(id), "stopped") << "an end that was asked for is not restarted";
  EXPECT_EQ(lab.manager->shutdown(id).error().code, Code::vm_state);
}

TEST(VmManager, TokensNameTheirVm) {
  Lab lab;
  lab.restart();
  const auto first = create(lab, request());
  const auto second = create(lab, request());
  const auto token = [&](const std::string& id) {
    return json::parse(read(lab.vm(id) / "shared/.sys-config.json"))["host_api_token"].get<std::string>();
  };
  EXPECT_NE(token(first), token(second));
  EXPECT_EQ(lab.manager->vm_of_token(token(second)), second);
  EXPECT_FALSE(lab.manager->vm_of_token(""));
  EXPECT_FALSE(lab.manager->vm_of_token(token(first).substr(1)));
}

TEST(VmManager, RestartAdoptsRunningVmsAndStartsTheOthers) {
  Lab lab;
  lab.restart();
  const auto alive = create(lab, request());    // pid 100
  const auto dead = create(lab, request());     // pid 101
  const auto stopped = create(lab, request());  // pid 102
  ASSERT_TRUE(lab.manager->stop(stopped));
  const auto unrecorded = create(lab, request());  // pid 103
  fs::remove(lab.vm(unrecorded) / "qemu.json");
  lab.processes.survivors = {{100, true}, {103, true}};
  lab.processes.unrecorded = {{unrecorded, 103}};
  const int before = lab.processes.starts;
  lab.restart();
  EXPECT_EQ(lab.status(alive), "running");
  EXPECT_EQ(lab.status(unrecorded), "running") << "D6: died between the start and its record";
  EXPECT_EQ(lab.status(dead), "exited");
  EXPECT_EQ(lab.status(stopped), "stopped");
  EXPECT_EQ(lab.processes.starts, before) << "no double launch";
  lab.manager->tick();
  EXPECT_EQ(lab.processes.starts, before + 1);
  EXPECT_EQ(lab.status(dead), "running");
  EXPECT_TRUE(fs::exists(lab.vm(unrecorded) / "qemu.json"));
}

// After a reboot of the host: an app whose KMS is not up yet would get no keys and power off for good.
TEST(VmManager, VmsThatNeedKeysWaitForTheOneThatGivesThem) {
  Lab lab;
  lab.restart();
  auto app = request();
  app.set_compose_file(lab::compose(R"(,"kms_enabled":true)"));
  const auto first = create(lab, app);
  const auto kms = create(lab, request());
  const auto second = create(lab, app);
  const auto rebooted = [&] {
    lab.restart();
    lab.manager->tick();
    lab.manager->tick();
    EXPECT_EQ(lab.status(kms), "running");
    EXPECT_EQ(lab.status(first), "exited") << "the KMS still boots";
    EXPECT_EQ(lab.status(second), "exited");
  };
  rebooted();
  ASSERT_TRUE(lab.manager->notify(kms, "boot.progress", "done"));
  lab.manager->tick();
  EXPECT_EQ(lab.status(first), "running");
  EXPECT_EQ(lab.status(second), "running");

  rebooted();
  ASSERT_TRUE(lab.manager->notify(kms, "boot.error", "no disk"));
  lab.manager->tick();
  EXPECT_EQ(lab.status(first), "running") << "it will not come, and the app may have another";

  rebooted();
  lab.clock.advance(181'000);
  lab.manager->tick();
  EXPECT_EQ(lab.status(first), "running") << "nobody waits for ever";
}

TEST(VmManager, AStopThatACrashCutOffIsFinished) {
  Lab lab;
  lab.restart();
  const auto stopped = create(lab, request());
  const auto powering_off = create(lab, request());
  ASSERT_TRUE(lab.manager->notify(powering_off, "shutdown.progress", "powering off"));
  lab::write(lab.vm(stopped) / "vm-state.json", R"({"started":false})");
  lab.processes.survivors = {{100, true}, {101, true}};
  lab.restart();
  EXPECT_EQ(lab.status(stopped), "stopping");
  lab.manager->tick();
  EXPECT_EQ(lab.status(stopped), "stopped");
  EXPECT_EQ(lab.status(powering_off), "stopping") << "the guest is busy with it";
}

TEST(VmManager, AStartThatFailsLeavesAStoppedVmStopped) {
  Lab lab;
  lab.restart();
  auto what = request();
  what.set_stopped(true);
  const auto id = create(lab, what);
  lab.processes.fail_starts = true;
  EXPECT_FALSE(lab.manager->start(id));
  EXPECT_EQ(lab.status(id), "stopped");
  EXPECT_EQ(read(lab.vm(id) / "vm-state.json"), R"({"started":false})");
}

TEST(VmManager, OneCorruptRecordDoesNotStopTheOthers) {
  Lab lab;
  lab.restart();
  const auto good = create(lab, request());
  const auto bad = create(lab, request());
  lab::write(lab.vm(bad) / "vm-manifest.json", "{\"id\":");
  fs::create_directories(lab.config.run_path / ".new-123/shared");
  fs::create_directories(lab.config.run_path / ".removed-123");
  fs::create_directories(lab.config.run_path / "not a vm");
  lab.processes.survivors = {{100, true}, {101, true}};
  lab.restart();
  EXPECT_EQ(lab.status(good), "running");
  const auto view = lab.manager->find(bad);
  ASSERT_TRUE(view);
  ASSERT_TRUE(view->broken);
  EXPECT_EQ(view->broken->code, Code::vm_record);
  EXPECT_FALSE(view->broken->fix.empty());
  EXPECT_FALSE(lab.manager->start(bad));
  EXPECT_FALSE(fs::exists(lab.config.run_path / ".new-123")) << "leftovers of a crash go";
  EXPECT_FALSE(fs::exists(lab.config.run_path / ".removed-123"));
  EXPECT_TRUE(fs::exists(lab.config.run_path / "not a vm")) << "what is not ours stays";
  ASSERT_TRUE(lab.manager->remove(bad));
  EXPECT_EQ(lab.status(bad), "gone");
}

}  // namespace
}  // namespace dstack::vmm
