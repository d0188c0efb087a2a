#include "guest/containers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <mutex>

#include "base/fs.h"
#include "net/server.h"
#include "unit/guest/fakes.h"
#include "unit/guest/temp_dir.h"

namespace dstack::guest {
namespace {

using base::Code;
using testing::Contains;
using testing::HasSubstr;

class ContainersTest : public testing::Test {
 protected:
  ContainersTest()
      : m_containers(m_runner,
                     {m_dir / "data", m_dir / "work", m_dir / "run", m_dir / "podman/podman.sock"}) {
    std::filesystem::create_directories(m_dir / "work");
    std::filesystem::create_directories(m_dir / "data");
  }
  TempDir m_dir;
  FakeRunner m_runner;
  Containers m_containers;
};

TEST(StorageConfig, NamesTheImageStores) {
  EXPECT_EQ(storage_config({}, {"/run/a", "/run/b\"c"}),
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"/dstack/data/containers\"\n"
            "runroot = \"/run/containers/storage\"\n[storage.options]\n"
            "additionalimagestores = [\"/run/a\", \"/run/b\\\"c\"]\n");
  EXPECT_THAT(storage_config({}, {}), HasSubstr("additionalimagestores = []"));
}

TEST_F(ContainersTest, StartsPodmansService) {
  std::vector<std::string> environment;
  m_runner.on_spawn = [&](const base::Spawn& what) {
    environment = what.environment;
    return base::Result<pid_t>(0);
  };
  ASSERT_TRUE(m_containers.start_service({"/run/images"}).has_value());
  EXPECT_TRUE(m_runner.ran("podman"));
  EXPECT_THAT(environment, Contains("CONTAINERS_STORAGE_CONF=" + (m_dir / "run/storage.conf").string()));
  EXPECT_THAT(base::read_file(m_dir / "run/storage.conf").value(), HasSubstr("\"/run/images\""));
}

TEST_F(ContainersTest, NoticesAServiceThatEnds) {
  m_runner.on_spawn = [](const base::Spawn&) {
    const auto pid = ::fork();
    if (pid == 0) {
      ::_exit(125);
    }
    return base::Result<pid_t>(pid);
  };
  ASSERT_TRUE(m_containers.start_service({}).has_value());
  const auto ready = m_containers.wait_for_service(std::chrono::seconds(20));
  ASSERT_FALSE(ready.has_value());
  EXPECT_EQ(ready.error().message, "podman's API service ended with status 125");
}

TEST_F(ContainersTest, GivesUpOnASilentService) {
  ASSERT_TRUE(m_containers.start_service({}).has_value());
  EXPECT_FALSE(m_containers.wait_for_service(std::chrono::milliseconds(30)).has_value());
}

TEST_F(ContainersTest, BringsTheComposeFileUp) {
  ASSERT_TRUE(m_containers.up("services: {}\n", {}).has_value());
  EXPECT_EQ(base::read_file(m_dir / "work/docker-compose.yaml").value(), "services: {}\n");
  ASSERT_EQ(m_runner.commands.size(), 1u);
  const auto& argv = m_runner.commands[0];
  EXPECT_THAT(argv, Contains((m_dir / "work/docker-compose.yaml").string()));
  EXPECT_THAT(argv, Contains("up"));
  EXPECT_THAT(argv, Contains("-d"));
  EXPECT_THAT(argv, Contains("--remove-orphans"));
}

TEST_F(ContainersTest, SaysWhyContainersDidNotStart) {
  m_runner.on_run = [](const base::Command&) {
    return base::Output{1, "",
                        " Container dstack-web-1 Starting\nError response from daemon: no such image\n"};
  };
  const auto up = m_containers.up("services: {}\n", {});
  ASSERT_FALSE(up.has_value());
  EXPECT_EQ(up.error().code, Code::containers);
  EXPECT_TRUE(up.error().what().starts_with("failed to start containers: ")) << up.error().what();
  EXPECT_THAT(up.error().what(), HasSubstr("no such image"));
}

TEST_F(ContainersTest, StopsEveryRunningContainerThroughTheService) {
  std::mutex mutex;
  std::vector<std::string> stopped;
  net::Server podman([&](const net::Request& request) {
    if (request.path == "/v1.41/containers/json") {
      return net::Response::json(200, R"([{"Id":"aa"},{"Id":"bb"},{"Id":7},"x"])");
    }
    const std::lock_guard lock(mutex);
    stopped.push_back(request.method + " " + request.path + "?" + request.query);
    return net::Response::text(request.path.find("aa") != std::string::npos ? 204 : 304, "");
  });
  std::filesystem::create_directories(m_dir / "podman");
  ASSERT_TRUE(podman.listen_unix((m_dir / "podman/podman.sock").string()).has_value());
  podman.start();
  m_containers.stop(std::chrono::seconds(3));
  EXPECT_THAT(stopped, testing::UnorderedElementsAre("POST /v1.41/containers/aa/stop?t=3",
                                                     "POST /v1.41/containers/bb/stop?t=3"));
}

class LeftoverTest : public ContainersTest {
 protected:
  LeftoverTest() {
    m_dir.write("data/containers/overlay-containers/containers.json",
                R"([{"id":"aa"},{"id":"bb"},{"id":"../x"}])");
    std::filesystem::create_directories(m_dir / "podman");
    EXPECT_TRUE(m_podman.listen_unix((m_dir / "podman/podman.sock").string()).has_value());
    m_podman.start();
    m_runner.on_run = [this](const base::Command&) {
      ++m_attempts;
      const bool blocked = !m_known.contains("bb") && m_deleted.empty();
      return base::Output{blocked || m_broken ? 1 : 0, "", "the container name is already in use\n"};
    };
  }
  std::string m_known = R"([{"Id":"aa"}])";
  std::vector<std::string> m_deleted;
  int m_attempts = 0;
  bool m_broken = false;
  net::Server m_podman{[this](const net::Request& request) {
    if (request.method == "DELETE") {
      m_deleted.push_back(request.path);
      return net::Response::json(200, R"([{"Id":""}])");
    }
    return net::Response::json(200, m_known);
  }};
};

TEST_F(LeftoverTest, AHalfMadeContainerIsRemovedAndTheStartTriedAgain) {
  ASSERT_TRUE(m_containers.up("services: {}\n", {}).has_value());
  EXPECT_THAT(m_deleted, testing::ElementsAre("/v4.0.0/libpod/containers/bb"));
  EXPECT_EQ(m_attempts, 2);
}

TEST_F(LeftoverTest, ContainersThatPodmanKnowsStay) {
  m_known = R"([{"Id":"aa"},{"Id":"bb"}])";
  m_broken = true;
  EXPECT_FALSE(m_containers.up("services: {}\n", {}).has_value());
  EXPECT_TRUE(m_deleted.empty());
  EXPECT_EQ(m_attempts, 1);
}

TEST_F(LeftoverTest, OneMoreTryIsAll) {
  m_broken = true;
  EXPECT_FALSE(m_containers.up("services: {}\n", {}).has_value());
  EXPECT_EQ(m_attempts, 2);
}

TEST_F(ContainersTest, StoppingWithoutAServiceIsNoError) {
  m_containers.stop(std::chrono::seconds(1));
}

TEST(ProgramError, KeepsTheEndOfALongOutput) {
  std::string output;
  for (int i = 0; i < 1000; ++i) {
    output += "line " + std::to_string(i) + "\n";
  }
  const auto error = program_error(Code::containers, "failed", {1, "", output});
  EXPECT_LT(error.cause.size(), 2000u);
  EXPECT_TRUE(error.cause.starts_with("line "));
  EXPECT_TRUE(error.cause.ends_with("line 999"));
  EXPECT_EQ(program_error(Code::containers, "failed", {7, "", ""}).what(), "failed: exit code 7");
}

}  // namespace
}  // namespace dstack::guest
