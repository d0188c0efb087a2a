// dstack-auth as a program: how it starts, says so, stops, and what it refuses.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "base/process.h"
#include "unit/net/raw_socket.h"
#include "unit/temp_dir.h"

namespace fs = std::filesystem;
using namespace dstack;
using net::test::RawSocket;
using testing::HasSubstr;

namespace {

const std::string k_hash(64, 'c');
const std::string k_app(40, 'a');

std::string list_of(const std::string& gateway, const std::string& hash) {
  return base::format(
      R"({{"osImages":[],"allowAnyOsImage":true,"gatewayAppId":"{}","apps":{{"{}":{{"composeHashes":["{}"]}}}}}})",
      gateway, k_app, hash);
}

std::string post(const std::string& body, const std::string& headers = "") {
  return base::format("POST /bootAuth/app HTTP/1.1\r\nHost: h\r\n{}Content-Length: {}\r\n\r\n{}", headers,
                      body.size(), body);
}
std::string boot_info() {
  return base::format(R"({{"appId":"{}","composeHash":"{}"}})", k_app, k_hash);
}

class AuthProgram : public testing::Test {
 protected:
  void SetUp() override { write(list_of("gw", k_hash)); }
  void TearDown() override {
    if (m_pid > 0) {
      ::kill(m_pid, SIGKILL);
      ::waitpid(m_pid, nullptr, 0);
    }
  }

  fs::path list() const { return dir / "allow.json"; }
  void write(const std::string& text) const {
    const fs::path temporary = dir / "new";
    std::ofstream(temporary, std::ios::binary) << text;
    ::chmod(temporary.c_str(), 0644);
    fs::rename(temporary, list());
  }
  std::string log() const {
    std::ostringstream out;
    out << std::ifstream(dir / "log").rdbuf();
    return out.str();
  }

  static base::Output run(std::vector<std::string> arguments) {
    base::Command command;
    command.argv = {DSTACK_AUTH};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.timeout = std::chrono::seconds(20);
    auto output = base::run(command);
    EXPECT_TRUE(output);
    return output ? *output : base::Output{.exit_code = -1};
  }

  // Starts it and returns what it tells the service manager first. `inherited`: a listening socket to hand
  // over. `nobody`: not as root.
  std::string start(std::vector<std::string> arguments, int inherited = -1, bool nobody = false) {
    const base::Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const std::string path = (dir / "notify").string();
    ::unlink(path.c_str());
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ::chmod(path.c_str(), 0777);
    // Opened as who we are: the program may lie where another user cannot go.
    const base::Fd program(::open(DSTACK_AUTH, O_PATH | O_CLOEXEC));
    const timeval limit{20, 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    std::vector<std::string> argv{DSTACK_AUTH, "--config", list().string()};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    std::vector<char*> raw;
    for (auto& argument : argv) {
      raw.push_back(argument.data());
    }
    raw.push_back(nullptr);
    const std::string log_path = (dir / "log").string();
    m_pid = ::fork();
    if (m_pid == 0) {
      const int out = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      ::dup2(out, 1);
      ::dup2(out, 2);
      ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
      if (inherited >= 0) {
        // As systemd does it: from descriptor 3 on, and LISTEN_PID names this very process.
        if (inherited == 3) {
          ::fcntl(3, F_SETFD, 0);
        } else {
          ::dup2(inherited, 3);
        }
        ::setenv("LISTEN_FDS", "1", 1);
        ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
      }
      if (nobody && (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0)) {
        ::_exit(126);
      }
      ::fexecve(program.get(), raw.data(), environ);
      ::_exit(127);
    }
    char buffer[1024];
    const auto count = ::recv(socket.get(), buffer, sizeof buffer, 0);
    return {buffer, count > 0 ? static_cast<std::size_t>(count) : 0};
  }
  // On a port of its own choice.
  void start_tcp(std::vector<std::string> arguments = {}, bool nobody = false) {
    arguments.insert(arguments.end(), {"--port", "0"});
    const auto said = start(std::move(arguments), -1, nobody);
    EXPECT_THAT(said, HasSubstr("READY=1")) << log();
    const auto at = said.find("127.0.0.1:");
    ASSERT_NE(at, std::string::npos) << said;
    m_port = static_cast<std::uint16_t>(std::atoi(said.c_str() + at + 10));
  }
  int wait_end() {
    int status = -1;
    EXPECT_EQ(::waitpid(m_pid, &status, 0), m_pid);
    m_pid = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string get(const std::string& path) const {
    auto socket = RawSocket::tcp(m_port);
    socket.send("GET " + path + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    return socket.read_all();
  }
  std::string ask() const {
    auto socket = RawSocket::tcp(m_port);
    socket.send(post(boot_info(), "Connection: close\r\n"));
    return socket.read_all();
  }

  test::TempDir dir;
  pid_t m_pid = -1;
  std::uint16_t m_port = 0;
};

TEST_F(AuthProgram, SaysWhenItIsReadyAndAnswers) {
  start_tcp();
  EXPECT_THAT(ask(), HasSubstr(R"({"isAllowed":true,"gatewayAppId":"gw","reason":"ok"})"));
  EXPECT_THAT(log(), HasSubstr("decision=allow target=app app=" + k_app));
}

TEST_F(AuthProgram, SigtermAnswersWhatIsInFlightAndEndsWithSuccess) {
  for (const int signal : {SIGTERM, SIGINT}) {
    start_tcp();
    auto idle = RawSocket::tcp(m_port);
    auto busy = RawSocket::tcp(m_port);
    const auto request = post(boot_info());
    busy.send(request.substr(0, request.size() - 10));
    // The half request must have arrived before the signal does.
    EXPECT_THAT(ask(), HasSubstr("200 OK"));
    ASSERT_EQ(::kill(m_pid, signal), 0);
    EXPECT_EQ(idle.read_all(), "");
    busy.send(request.substr(request.size() - 10));
    EXPECT_THAT(busy.read_all(), HasSubstr(R"("isAllowed":true)"));
    EXPECT_EQ(wait_end(), 0) << log();
    EXPECT_FALSE(RawSocket::tcp(m_port).connected());
  }
}

TEST_F(AuthProgram, APortInUseIsNamed) {
  start_tcp();
  const auto second = run({"--config", list().string(), "--port", std::to_string(m_port)});
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.err, HasSubstr("DS1202"));
  EXPECT_THAT(second.err, HasSubstr(std::to_string(m_port)));
  EXPECT_THAT(second.err, HasSubstr("fix:"));
}

TEST_F(AuthProgram, AFailedStartIsToldToTheServiceManager) {
  start_tcp();
  const pid_t first = m_pid;
  const auto said = start({"--port", std::to_string(m_port)});
  EXPECT_THAT(said, HasSubstr("STATUS="));
  EXPECT_THAT(said, testing::Not(HasSubstr("READY=1")));
  EXPECT_EQ(wait_end(), 1);
  m_pid = first;
}

TEST_F(AuthProgram, TakesTheSocketThatSystemdHandsOver) {
  const base::Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(::listen(listener.get(), 16), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  m_port = ntohs(address.sin_port);
  // Asked before anybody serves: socket activation loses no request.
  auto early = RawSocket::tcp(m_port);
  early.send(post(boot_info(), "Connection: close\r\n"));
  EXPECT_THAT(start({}, listener.get()), HasSubstr("READY=1"));
  EXPECT_THAT(early.read_all(), HasSubstr(R"("isAllowed":true)"));
  EXPECT_THAT(ask(), HasSubstr(R"("isAllowed":true)"));
}

TEST_F(AuthProgram, ServesOnAUnixSocket) {
  const auto path = (dir / "auth.sock").string();
  EXPECT_THAT(start({"--unix", path}), HasSubstr("READY=1"));
  auto socket = RawSocket::unix_path(path);
  socket.send(post(boot_info(), "Connection: close\r\n"));
  EXPECT_THAT(socket.read_all(), HasSubstr(R"("isAllowed":true)"));
  ::kill(m_pid, SIGTERM);
  EXPECT_EQ(wait_end(), 0);
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(AuthProgram, AnotherAddressNeedsTlsAndAToken) {
  const auto output = run({"--config", list().string(), "--address", "0.0.0.0", "--port", "0"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, HasSubstr("--tls-cert"));
  EXPECT_THAT(output.err, HasSubstr("--token-file"));
}

TEST_F(AuthProgram, AskedWithoutTheTokenItRefuses) {
  std::ofstream(dir / "token") << "0123456789abcdef\n";
  start_tcp({"--token-file", (dir / "token").string()});
  EXPECT_THAT(ask(), HasSubstr("401"));
  auto socket = RawSocket::tcp(m_port);
  socket.send(post(boot_info(), "Connection: close\r\nAuthorization: Bearer 0123456789abcdef\r\n"));
  EXPECT_THAT(socket.read_all(), HasSubstr(R"("isAllowed":true)"));
  EXPECT_THAT(log(), testing::Not(HasSubstr("0123456789abcdef")));
}

TEST_F(AuthProgram, StartsWithABrokenFileAndDenies) {
  write("{");
  start_tcp();
  EXPECT_THAT(ask(), HasSubstr(R"("isAllowed":false)"));
  EXPECT_THAT(log(), HasSubstr("everything is denied"));
  write(list_of("gw", k_hash));
  EXPECT_THAT(ask(), HasSubstr(R"("isAllowed":true)"));
}

// Root reads everything, so the service runs as somebody else here, as its unit lets it.
TEST_F(AuthProgram, AFileThatItsUserCannotReadDeniesEverythingAndIsNamed) {
  if (::geteuid() == 0) {
    ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
  }
  start_tcp({}, ::geteuid() == 0);
  EXPECT_THAT(ask(), HasSubstr(R"("isAllowed":true)"));
  const auto expect_denied = [&] {
    EXPECT_THAT(ask(), HasSubstr(R"("isAllowed":false)"));
    const auto health = get("/health");
    EXPECT_THAT(health, testing::StartsWith("HTTP/1.1 503"));
    EXPECT_THAT(health, HasSubstr(list().string()));
    EXPECT_THAT(health, HasSubstr("Permission denied"));
    EXPECT_THAT(health, HasSubstr("let the service's user read"));
    EXPECT_THAT(get("/"), testing::StartsWith("HTTP/1.1 200"));
  };
  ASSERT_EQ(::chmod(list().c_str(), ::geteuid() == 0 ? 0600 : 0), 0);
  expect_denied();
  ASSERT_EQ(::chmod(list().c_str(), 0644), 0);
  EXPECT_THAT(ask(), HasSubstr(R"("isAllowed":true)")) << "from the next request on";
  // No way to it.
  ASSERT_EQ(::chmod(dir.path().c_str(), ::geteuid() == 0 ? 0700 : 0), 0);
  expect_denied();
  ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
  EXPECT_THAT(ask(), HasSubstr(R"("isAllowed":true)"));
}

TEST_F(AuthProgram, ChecksAFile) {
  auto output = run({"--config", list().string(), "--check"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("is valid"));
  EXPECT_THAT(output.out, HasSubstr("apps: 1"));
  write(R"({"osImages":["0x"]})");
  output = run({"--config", list().string(), "--check"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.out, "");
  EXPECT_THAT(output.err, HasSubstr("osImages: has a blank entry"));
}

TEST_F(AuthProgram, ExplainsADecision) {
  std::ofstream(dir / "boot.json") << boot_info();
  auto output = run({"--config", list().string(), "--explain", (dir / "boot.json").string()});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("app: allowed"));
  output = run({"--config", list().string(), "--explain", (dir / "boot.json").string(), "--kms"});
  EXPECT_THAT(output.out, HasSubstr("KMS: denied"));
  EXPECT_THAT(output.out, HasSubstr("kms.mrAggregated"));
  const auto strictly = [&] {
    return run(
        {"--config", list().string(), "--explain", (dir / "boot.json").string(), "--policy", "strict"});
  };
  EXPECT_THAT(strictly().out, HasSubstr("app: refused with HTTP 400"));
  std::ofstream(dir / "boot.json") << base::format(
      R"({{"mrAggregated":"a","osImageHash":"b","appId":"{}","composeHash":"{}","instanceId":"c","deviceId":"d"}})",
      k_app, k_hash);
  EXPECT_THAT(strictly().out, HasSubstr("strict profile: tcbStatus"));
}

TEST_F(AuthProgram, TenThousandOpenConnectionsDoNotStopIt) {
  rlimit files = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  const rlimit before = files;
  files.rlim_cur = files.rlim_max;
  if (files.rlim_max < 10'200 || ::setrlimit(RLIMIT_NOFILE, &files) != 0) {
    GTEST_SKIP() << "10,000 descriptors are more than this machine allows";
  }
  start_tcp();
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(m_port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::vector<base::Fd> crowd;
  for (int i = 0; i < 10'000; ++i) {
    crowd.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(crowd.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0)
        << i << ": " << std::strerror(errno);
  }
  // Above the limit there is a 503, or just an end where thousands are being told already; who has a
  // connection is still answered, and so is the next after them.
  EXPECT_THAT(ask(), testing::AnyOf(HasSubstr("503"), testing::IsEmpty()));
  const std::string request = post(boot_info());
  ASSERT_EQ(::send(crowd.front().get(), request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  char answer[1024];
  const auto count = ::recv(crowd.front().get(), answer, sizeof answer, 0);
  EXPECT_THAT(std::string(answer, count > 0 ? static_cast<std::size_t>(count) : 0),
              HasSubstr("\"isAllowed\":true"));
  crowd.clear();
  std::string after;
  for (int i = 0; i < 100 && after.find("isAllowed") == std::string::npos; ++i) {
    after = ask();
  }
  EXPECT_THAT(after, HasSubstr("\"isAllowed\":true"));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

// A writer replaces the file 10,000 times while 16 connections ask; each answer is one version's, whole.
TEST_F(AuthProgram, TenThousandReplacementsNoAnswerFromNeitherVersion) {
  start_tcp();
  const std::string a = list_of("A", k_hash);
  const std::string b = list_of("B", std::string(64, 'd'));
  write(a);
  std::atomic<bool> done = false;
  std::atomic<int> seen_a = 0;
  std::atomic<int> seen_b = 0;
  std::atomic<int> wrong = 0;
  std::vector<std::jthread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&] {
      auto socket = RawSocket::tcp(m_port);
      const auto request = post(boot_info());
      while (!done) {
        socket.send(request);
        const auto reply = socket.read_until("\"}");
        if (reply.find(R"({"isAllowed":true,"gatewayAppId":"A","reason":"ok"})") != std::string::npos) {
          ++seen_a;
        } else if (reply.find(
                       R"({"isAllowed":false,"gatewayAppId":"B","reason":"compose hash not allowed"})") !=
                   std::string::npos) {
          ++seen_b;
        } else {
          ++wrong;
        }
      }
    });
  }
  for (int i = 0; i < 10'000; ++i) {
    write(i % 2 == 0 ? b : a);
  }
  done = true;
  clients.clear();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(seen_a, 0);
  EXPECT_GT(seen_b, 0);
}

}  // namespace
