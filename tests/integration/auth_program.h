// dstack-auth as a process, with an allow-list of its own.
#pragma once

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
#include "base/fs.h"
#include "base/process.h"
#include "net/client.h"
#include "net/listen.h"
#include "unit/net/raw_socket.h"
#include "unit/net/test_pki.h"
#include "unit/temp_dir.h"

namespace dstack::test {

inline const std::string k_hash(64, 'c');
inline const std::string k_app(40, 'a');

inline std::string list_of(const std::string& gateway, const std::string& hash) {
  return base::format(
      R"({{"osImages":[],"allowAnyOsImage":true,"gatewayAppId":"{}","apps":{{"{}":{{"composeHashes":["{}"]}}}}}})",
      gateway, k_app, hash);
}

inline std::string post(const std::string& body, const std::string& headers = "") {
  return base::format("POST /bootAuth/app HTTP/1.1\r\nHost: h\r\n{}Content-Length: {}\r\n\r\n{}", headers,
                      body.size(), body);
}
inline std::string boot_info() {
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

  std::filesystem::path list() const { return dir / "allow.json"; }
  void write(const std::string& text) const {
    const std::filesystem::path temporary = dir / "new";
    std::ofstream(temporary, std::ios::binary) << text;
    ::chmod(temporary.c_str(), 0644);
    std::filesystem::rename(temporary, list());
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
    EXPECT_THAT(said, testing::HasSubstr("READY=1")) << log();
    const auto at = said.find("127.0.0.1:");
    ASSERT_NE(at, std::string::npos) << said;
    m_port = static_cast<std::uint16_t>(std::atoi(said.c_str() + at + 10));
  }
  // A listening socket as systemd makes it; its port is m_port.
  base::Fd listen_on(const std::string& ip) {
    auto socket = net::listen_on_tcp(ip, 0);
    EXPECT_TRUE(socket);
    if (!socket) {
      return {};
    }
    m_port = socket->port;
    return std::move(socket->fd);
  }
  // cert.pem, key.pem and token.
  void write_tls() const {
    const auto pair = net::test::make_certificate("auth", nullptr, "IP:127.0.0.1", true);
    std::ofstream(dir / "cert.pem") << pair.certificate_pem;
    std::ofstream(dir / "key.pem") << pair.key_pem;
    std::ofstream(dir / "token") << "0123456789abcdef\n";
  }
  int wait_end() {
    int status = -1;
    pid_t ended = 0;
    for (int i = 0; i < 1000 && ended == 0; ++i) {
      ended = ::waitpid(m_pid, &status, WNOHANG);
      if (ended == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
    if (ended == 0) {
      ADD_FAILURE() << "it goes on running";
      ::kill(m_pid, SIGKILL);
      ended = ::waitpid(m_pid, &status, 0);
    }
    EXPECT_EQ(ended, m_pid);
    m_pid = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string get(const std::string& path) const {
    auto socket = net::test::RawSocket::tcp(m_port);
    socket.send("GET " + path + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    return socket.read_all();
  }
  std::string ask() const {
    auto socket = net::test::RawSocket::tcp(m_port);
    socket.send(post(boot_info(), "Connection: close\r\n"));
    return socket.read_all();
  }

  test::TempDir dir;
  pid_t m_pid = -1;
  std::uint16_t m_port = 0;
};

}  // namespace dstack::test
