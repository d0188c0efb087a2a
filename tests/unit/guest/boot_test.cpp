#include "guest/boot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <utility>

#include "base/fs.h"
#include "net/client.h"
#include "unit/guest/evidence_fixture.h"
#include "unit/guest/fakes.h"
#include "unit/guest/temp_dir.h"

namespace dstack::guest {
namespace {

using base::Code;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::string fat_sector() {
  std::string sector(512, '\0');
  sector.replace(82, 5, "FAT32");
  sector.replace(71, 11, "DSTACKSHR  ");
  sector[510] = '\x55';
  sector[511] = '\xaa';
  return sector;
}

// A machine in a directory: two disks and a host share, a runner that plays podman and docker-compose.
class BootTest : public testing::Test {
 protected:
  BootTest() {
    m_dir.write("sys/block/vda/ro", "1");
    m_dir.write("sys/block/vdb/ro", "0");
    m_dir.write("sys/block/vdc/ro", "1");
    m_dir.write("dev/vda", "hsqs");
    m_dir.write("dev/vdb", std::string(64 * 1024, '\0'));
    m_dir.write("dev/vdc", fat_sector());
    m_dir.write("run/keep", "");
    share(
        "app-compose.json",
        R"({"manifest_version":2,"name":"hello","runner":"docker-compose","docker_compose_file":"services: {}\n",)"
        R"("kms_enabled":true})");
    share(".sys-config.json",
          std::string(R"({"kms_urls":["https://kms"],"host_api_url":"http://10.0.2.2:1/api",)") +
              R"("host_api_token":"t0k","vm_config":"{\"os_image_hash\":\")" + std::string(64, '1') +
              R"(\"}"})");
    share(".tee-simulator.json",
          R"({"platform":"tdx","mock_attestation_seed":")" + std::string(64, '7') + "\"}");

    m_mounter.on_mount = [this](const MountRequest& request) -> base::Result<> {
      if (request.type == "vfat") {
        std::filesystem::copy(
            m_dir / "share", request.target,
            std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
      }
      return {};
    };
    m_runner.on_spawn = [this](const base::Spawn&) {
      listen();
      return base::Result<pid_t>(0);
    };
    m_seams.root = m_dir.path();
    m_seams.mounter = &m_mounter;
    m_seams.runner = &m_runner;
    m_seams.prepare_system = [] { return base::Result<>(); };
    m_seams.network = [] { return base::Result<>(); };
    m_seams.open_channel = [this](const SysConfig&) -> base::Result<std::unique_ptr<HostChannel>> {
      return std::make_unique<FakeChannel>(m_sent);
    };
    m_seams.fetch_keys = [](const KmsOptions&, attest::EvidenceSource&) {
      return base::Result<AppKeys>(make_test_keys());
    };
    m_seams.console = [](std::string_view) {};
    m_seams.guest_api_port = 0;
    m_seams.guest_api_address = "127.0.0.1";
  }
  ~BootTest() override {
    if (m_podman >= 0) {
      ::close(m_podman);
    }
  }

  void share(std::string_view name, std::string_view text) {
    m_dir.write("share/" + std::string(name), text);
  }

  // podman's socket, as the service would make it.
  void listen() {
    m_podman = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const auto name = (m_dir / "run/podman/podman.sock").string();
    std::copy(name.begin(), name.end(), address.sun_path);
    ASSERT_EQ(::bind(m_podman, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    ASSERT_EQ(::listen(m_podman, 4), 0);
  }

  base::Result<> run() {
    m_boot = std::make_unique<Boot>(m_seams, [this] { ++m_shutdowns; });
    auto result = m_boot->run();
    if (!result) {
      m_boot->report_failure(result.error());
    }
    return result;
  }
  std::vector<std::string> event_names() const {
    std::vector<std::string> names;
    for (const auto& event : m_boot->events()) {
      names.push_back(event.event);
    }
    return names;
  }
  std::vector<std::string> progress() const {
    std::vector<std::string> out;
    for (const auto& [event, payload] : m_sent) {
      if (event == "boot.progress") {
        out.push_back(payload);
      }
    }
    return out;
  }
  std::string boot_error() const {
    for (const auto& [event, payload] : m_sent) {
      if (event == "boot.error") {
        return payload;
      }
    }
    return {};
  }

  TempDir m_dir;
  FakeMounter m_mounter;
  FakeRunner m_runner;
  Notifications m_sent;
  Seams m_seams;
  int m_podman = -1;
  std::atomic<int> m_shutdowns{0};
  std::unique_ptr<Boot> m_boot;
};

TEST_F(BootTest, GoesFromTheShareToContainers) {
  const auto booted = run();
  ASSERT_TRUE(booted.has_value()) << booted.error().what();
  EXPECT_THAT(event_names(),
              ElementsAre("system-preparing", "app-id", "compose-hash", "instance-id", "boot-mr-done",
                          "os-image-hash", "key-provider", "storage-fs", "system-ready"));
  EXPECT_THAT(progress(),
              ElementsAre("requesting app keys", "data disk ready", "starting containers", "done"));
  EXPECT_THAT(m_sent, Contains(Pair("instance.info", HasSubstr("\"instance_id_seed\":\""))));
  EXPECT_THAT(m_sent, Contains(Pair("boot.timing", HasSubstr("\"containers\":"))));
  EXPECT_TRUE(m_runner.ran("mkfs.ext4"));
  EXPECT_TRUE(m_runner.ran("docker-compose"));
  EXPECT_EQ(base::read_file(m_dir / "dstack/docker-compose.yaml").value(), "services: {}\n");
  EXPECT_THAT(m_mounter.unmounts, ElementsAre(m_dir / "run/dstack/host-share"));
  EXPECT_EQ(std::filesystem::status(m_dir / "dstack/.host-shared/.appkeys.json").permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(BootTest, MeasuresTheBytesAsDelivered) {
  ASSERT_TRUE(run().has_value());
  const auto text = base::read_file(m_dir / "share/app-compose.json").value();
  const auto hash = crypto::sha256(base::as_bytes(text));
  EXPECT_EQ(m_boot->events().at(2).payload, base::to_bytes(hash));
  EXPECT_EQ(m_boot->events().at(1).payload, base::to_bytes(base::ByteView(hash).first(20)));
}

TEST_F(BootTest, KeysAreAskedWithEvidenceThatEndsAtBootMrDone) {
  m_seams.fetch_keys = [](const KmsOptions& options,
                          attest::EvidenceSource& source) -> base::Result<AppKeys> {
    const auto attestation = attest::Attestation::decode(source.attest({}).value()).value();
    EXPECT_EQ(attestation.runtime_events.size(), 5u);
    EXPECT_EQ(attestation.runtime_events.back().event, "boot-mr-done");
    EXPECT_THAT(options.vm_config, HasSubstr("os_image_hash"));
    EXPECT_TRUE(options.anchors.simulated_root().has_value());
    return make_test_keys();
  };
  EXPECT_TRUE(run().has_value());
}

TEST_F(BootTest, AFailoverExtendsTheImageHashOnce) {
  share(".sys-config.json", R"({"kms_urls":["https://a","https://b"],"vm_config":"{\"os_image_hash\":\")" +
                                std::string(64, '1') + R"(\"}"})");
  m_seams.fetch_keys = [](const KmsOptions& options, attest::EvidenceSource&) -> base::Result<AppKeys> {
    if (options.url == "https://a") {
      return base::fail(Code::connect_failed, "nobody there");
    }
    return make_test_keys();
  };
  ASSERT_TRUE(run().has_value());
  EXPECT_EQ(std::ranges::count(event_names(), "os-image-hash"), 1);
  EXPECT_EQ(std::ranges::count(event_names(), "key-provider"), 1);
}

TEST_F(BootTest, ADenialIsReportedAndFinal) {
  m_seams.fetch_keys = [](const KmsOptions&, attest::EvidenceSource&) -> base::Result<AppKeys> {
    return base::fail(Code::rpc, "App not allowed: Boot denied: compose hash not allowed");
  };
  EXPECT_FALSE(run().has_value());
  EXPECT_THAT(boot_error(), HasSubstr("Boot denied: compose hash not allowed"));
  EXPECT_EQ(m_sent.back(), (std::pair<std::string, std::string>("shutdown.progress", "powering off")));
  EXPECT_FALSE(m_runner.ran("docker-compose"));
  EXPECT_FALSE(std::filesystem::exists(m_dir / "dstack/.host-shared/.appkeys.json"));
}

TEST_F(BootTest, WithoutAKmsKeysComeFromARandomSeed) {
  share(
      "app-compose.json",
      R"({"manifest_version":2,"name":"kms","runner":"docker-compose","docker_compose_file":"services: {}\n"})");
  m_seams.fetch_keys = [](const KmsOptions&, attest::EvidenceSource&) -> base::Result<AppKeys> {
    ADD_FAILURE() << "no KMS may be asked";
    return base::fail(Code::rpc, "");
  };
  ASSERT_TRUE(run().has_value());
  EXPECT_THAT(event_names(), ElementsAre("system-preparing", "app-id", "compose-hash", "instance-id",
                                         "boot-mr-done", "key-provider", "storage-fs", "system-ready"));
}

TEST_F(BootTest, WithoutASimulatorThereIsNoEvidenceAndNoBoot) {
  std::filesystem::remove(m_dir / "share/.tee-simulator.json");
  EXPECT_FALSE(run().has_value());
  EXPECT_THAT(boot_error(), HasSubstr("no TEE"));
  EXPECT_TRUE(m_boot->events().empty());
}

TEST_F(BootTest, UnsupportedRunnersAreRefused) {
  share("app-compose.json", R"({"manifest_version":2,"name":"a","runner":"bash","bash_script":"true"})");
  EXPECT_FALSE(run().has_value());
  EXPECT_THAT(boot_error(), HasSubstr("runner bash is not supported"));
  EXPECT_TRUE(m_runner.commands.empty());
}

TEST_F(BootTest, AHostileShareEndsTheBoot) {
  std::filesystem::remove(m_dir / "share/app-compose.json");
  std::filesystem::create_symlink("/etc/passwd", m_dir / "share/app-compose.json");
  EXPECT_FALSE(run().has_value());
  EXPECT_TRUE(m_runner.commands.empty());
  EXPECT_THAT(m_mounter.unmounts, ElementsAre(m_dir / "run/dstack/host-share"));
}

TEST_F(BootTest, AMissingVolumeEndsTheBoot) {
  share(
      "app-compose.json",
      R"({"manifest_version":2,"name":"a","runner":"docker-compose","docker_compose_file":"services: {}\n",)"
      R"("verity_volumes":[{"source":"nginx.img","verity_root":")" +
          std::string(64, 'a') + R"(","target":"/run/images"}]})");
  EXPECT_FALSE(run().has_value());
  EXPECT_THAT(boot_error(), HasSubstr("the volume nginx.img"));
}

TEST_F(BootTest, ContainersThatDoNotStartAreReported) {
  m_runner.on_run = [](const base::Command& command) {
    const bool compose = command.argv[0].ends_with("docker-compose");
    return base::Output{compose ? 1 : 0, "", compose ? "no such image: web\n" : ""};
  };
  EXPECT_FALSE(run().has_value());
  EXPECT_THAT(boot_error(), HasSubstr("failed to start containers: no such image: web"));
}

TEST_F(BootTest, InitScriptsAreMeasuredAndRun) {
  share(
      "app-compose.json",
      R"({"manifest_version":2,"name":"a","runner":"docker-compose","docker_compose_file":"services: {}\n",)"
      R"("init_script":"echo hi"})");
  std::string input;
  m_runner.on_run = [&](const base::Command& command) {
    if (command.argv[0] == "bash") {
      input = command.input;
    }
    return base::Output{};
  };
  ASSERT_TRUE(run().has_value());
  EXPECT_EQ(input, "echo hi");
  EXPECT_EQ(m_boot->events().at(3).event, "init-script-hash");
  EXPECT_EQ(base::to_hex(m_boot->events().at(3).payload), crypto::sha256_hex("echo hi"));
}

TEST_F(BootTest, TheHostCanAskForAShutdown) {
  ASSERT_TRUE(run().has_value());
  net::Client client(
      net::Endpoint::parse("http://127.0.0.1:" + std::to_string(m_boot->guest_api_port())).value());
  net::Request request;
  request.method = "POST";
  request.path = "/api/Shutdown";
  request.query = "json";
  EXPECT_EQ(client.send(request)->status, 401);
  EXPECT_EQ(m_shutdowns, 0);
  request.headers.set("Authorization", "Bearer t0k");
  EXPECT_EQ(client.send(request)->status, 200);
  EXPECT_EQ(m_shutdowns, 1);
  ::close(std::exchange(m_podman, -1));  // podman is gone, and nothing waits for it
  m_boot->stop();
  EXPECT_EQ(m_sent.back(), (std::pair<std::string, std::string>("shutdown.progress", "powering off")));
}

TEST_F(BootTest, TheAgentAnswersBeforeContainersStart) {
  bool answered = false;
  m_runner.on_run = [&](const base::Command& command) {
    if (command.argv[0].ends_with("docker-compose")) {
      const net::Client client(net::Endpoint::parse("unix:" + (m_dir / "run/dstack.sock").string()).value());
      net::Request request;
      request.method = "POST";
      request.path = "/Info";
      const auto response = client.send(request);
      answered = response && response->status == 200;
    }
    return base::Output{};
  };
  ASSERT_TRUE(run().has_value());
  EXPECT_TRUE(answered);
}

}  // namespace
}  // namespace dstack::guest
