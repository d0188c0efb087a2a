// The program itself, with a script in QEMU's place.
#include "vmm/daemon.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <google/protobuf/empty.pb.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "base/process.h"
#include "net/client.h"
#include "rpc/client.h"
#include "unit/vmm/lab.h"

namespace dstack::vmm {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using namespace std::chrono_literals;

const fs::path& program() {
  static const fs::path path =
      fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "bin/dstack-vmm";
  return path;
}

class Daemon : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(program())) {
      GTEST_SKIP() << program() << " is not built";
    }
    lab::make_image(dir / "images", "dstack-0.6.0");
    lab::write(dir / "qemu",
               "#!/bin/sh\n"
               "if [ \"$1\" = --version ]; then echo 'QEMU emulator version 9.9.9'; exit; fi\n"
               "echo started; exec sleep 300\n");
    // VMs run as other users, who have to reach it.
    fs::permissions(dir / "qemu", fs::perms(0755));
    fs::permissions(dir.path(), fs::perms(0711));
    // The real one may not be installed.
    lab::write(dir / "seed", std::string(64, 'b'));
    lab::write(dir / "token", "the-token");
    write_config(*pick_loopback_port(), *pick_loopback_port());
  }
  void TearDown() override {
    for (const auto& [pid, own] : m_pids) {
      ::kill(pid, SIGKILL);
      if (own) {
        ::waitpid(pid, nullptr, 0);
      }
    }
  }

  void write_config(std::uint16_t port, std::uint16_t host_port) {
    m_port = port;
    lab::write(dir / "vmm.toml", base::format(R"(
address = "tcp:127.0.0.1:{}"
run_path = "vm"
image.path = "images"
[cvm]
qemu_path = "{}"
accelerator = "tcg"
[cvm.tee_simulator]
mock_attestation_seed_file = "seed"
[auth]
enabled = true
token_file = "token"
[host_api]
port = {}
)",
                                              port, (dir / "qemu").string(), host_port));
  }

  base::Result<base::Output> run(std::vector<std::string> arguments) const {
    base::Command command;
    command.argv = {program().string()};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.timeout = 20s;
    return base::run(command);
  }

  // Starts it and waits for READY=1.
  pid_t start() {
    const base::Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const auto path = (dir / "notify").string();
    ::unlink(path.c_str());
    std::copy(path.begin(), path.end(), address.sun_path);
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const timeval limit{20, 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    base::Spawn what;
    what.argv = {program().string(), "-c", (dir / "vmm.toml").string()};
    what.environment = {"PATH=/usr/bin:/bin", "NOTIFY_SOCKET=" + path};
    const base::Fd log(::open((dir / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    what.stdout_fd = log.get();
    what.stderr_fd = log.get();
    const auto pid = base::spawn(what);
    EXPECT_TRUE(pid);
    m_pids[*pid] = true;
    char buffer[512];
    const auto n = ::recv(socket.get(), buffer, sizeof buffer, 0);
    EXPECT_THAT(std::string(buffer, n > 0 ? static_cast<std::size_t>(n) : 0), HasSubstr("READY=1"))
        << lab::read(dir / "log");
    return *pid;
  }
  void end(pid_t pid, int signal) {
    ::kill(pid, signal);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    m_pids.erase(pid);
    if (signal == SIGTERM) {
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status << ": " << lab::read(dir / "log");
    }
  }
  rpc::Client client() const {
    net::Endpoint endpoint;
    endpoint.host = "127.0.0.1";
    endpoint.port = m_port;
    return rpc::Client(net::Client(endpoint), "/prpc", "the-token");
  }
  pid_t qemu_pid(const std::string& id) {
    const auto record = json::parse(lab::read(dir / "vm" / id / "qemu.json"), nullptr, false);
    const auto pid = record.value("pid", 0);
    if (pid > 0) {
      m_pids[pid] = false;
    }
    return pid;
  }
  std::string status(const std::string& id) const {
    ::vmm::Id request;
    request.set_id(id);
    const auto info = client().call<::vmm::GetInfoResponse>("GetInfo", request);
    EXPECT_TRUE(info) << info.error().what();
    return info && info->found() ? info->info().status() : "gone";
  }

  test::TempDir dir;

 private:
  std::map<pid_t, bool> m_pids;  // own child?
  std::uint16_t m_port = 0;
};

TEST_F(Daemon, VmsOutliveItsDeathAndAreFoundAgain) {
  auto vmm = start();
  const auto created = client().call<::vmm::Id>("CreateVm", lab::request());
  ASSERT_TRUE(created) << created.error().what();
  const auto id = created->id();
  const auto qemu = qemu_pid(id);
  ASSERT_GT(qemu, 0);
  EXPECT_EQ(status(id), "running");

  end(vmm, SIGKILL);
  EXPECT_EQ(::kill(qemu, 0), 0) << "kill -9 of the VM manager must not touch its VMs";
  vmm = start();
  EXPECT_EQ(status(id), "running");
  EXPECT_EQ(qemu_pid(id), qemu) << "the same process, not a second one";

  // Dies without its record: found again all the same.
  end(vmm, SIGKILL);
  fs::remove(dir / "vm" / id / "qemu.json");
  vmm = start();
  EXPECT_EQ(status(id), "running");
  EXPECT_EQ(qemu_pid(id), qemu);

  end(vmm, SIGTERM);
  EXPECT_EQ(::kill(qemu, 0), 0) << "stopping the service leaves VMs running";
  vmm = start();
  EXPECT_EQ(status(id), "running");
  ::vmm::Id request;
  request.set_id(id);
  const auto removed = client().call<google::protobuf::Empty>("RemoveVm", request);
  ASSERT_TRUE(removed) << removed.error().what();
  for (int i = 0; i < 100 && fs::exists(dir / "vm" / id); ++i) {
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_FALSE(fs::exists(dir / "vm" / id));
  EXPECT_EQ(status(id), "gone");
  EXPECT_FALSE(base::process_start_time(qemu)) << "no orphan";
  end(vmm, SIGTERM);
}

TEST_F(Daemon, RefusesToStartTwice) {
  const auto vmm = start();
  const auto same_port = run({"-c", (dir / "vmm.toml").string()});
  ASSERT_TRUE(same_port);
  EXPECT_EQ(same_port->exit_code, 1);
  EXPECT_THAT(same_port->err, HasSubstr("DS1010"));
  end(vmm, SIGTERM);
}

TEST_F(Daemon, APortInUseIsNamed) {
  const auto vmm = start();
  auto text = lab::read(dir / "vmm.toml");
  text.replace(text.find("\"vm\""), 4, "\"vm2\"");
  lab::write(dir / "other.toml", text);
  const auto output = run({"-c", (dir / "other.toml").string()});
  ASSERT_TRUE(output);
  EXPECT_EQ(output->exit_code, 1);
  EXPECT_THAT(output->err, HasSubstr("DS1202"));
  end(vmm, SIGTERM);
}

TEST_F(Daemon, CheckConfigAndUsage) {
  auto output = run({"-c", (dir / "vmm.toml").string(), "check-config"});
  ASSERT_TRUE(output);
  EXPECT_EQ(output->exit_code, 0) << output->err;
  EXPECT_EQ(output->out, "configuration is valid\n");
  output = run({"-c", (dir / "absent.toml").string()});
  EXPECT_EQ(output->exit_code, 1);
  EXPECT_THAT(output->err, HasSubstr("DS1002"));
  lab::write(dir / "tdx.toml", lab::read(dir / "vmm.toml") + "[image]\n");
  auto text = lab::read(dir / "vmm.toml");
  text.replace(text.find("[cvm]\n"), 6, "[cvm]\nplatform = \"tdx\"\n");
  lab::write(dir / "tdx.toml", text);
  output = run({"-c", (dir / "tdx.toml").string()});
  EXPECT_EQ(output->exit_code, 1);
  EXPECT_THAT(output->err, HasSubstr("not supported by this version"));
  EXPECT_EQ(std::count(output->err.begin(), output->err.end(), '\n'), 1) << "one line: " << output->err;
  output = run({"--help"});
  EXPECT_EQ(output->exit_code, 0);
  EXPECT_THAT(output->out, HasSubstr("check-config"));
  EXPECT_EQ(run({"--no-such-option"})->exit_code, 2);
}

}  // namespace
}  // namespace dstack::vmm
