// Where dstack-auth listens: sockets of the service manager, unix sockets, other addresses.
#include "integration/auth_program.h"

namespace fs = std::filesystem;
using namespace dstack;
using namespace dstack::test;
using net::test::RawSocket;
using testing::HasSubstr;

TEST_F(AuthProgram, TakesTheSocketThatSystemdHandsOver) {
  const auto socket = listen_on("127.0.0.1");
  // Asked before anybody serves: socket activation loses no request.
  auto early = RawSocket::tcp(m_port);
  early.send(post(boot_info(), "Connection: close\r\n"));
  const auto said = start({}, socket.get());
  EXPECT_THAT(said, HasSubstr("READY=1"));
  EXPECT_THAT(said, HasSubstr(base::format("listening on http://127.0.0.1:{} (inherited)", m_port)));
  EXPECT_THAT(early.read_all(), HasSubstr(R"("isAllowed":true)"));
  EXPECT_THAT(ask(), HasSubstr(R"("isAllowed":true)"));
}

TEST_F(AuthProgram, AnInheritedSocketForOthersNeedsTlsAndATokenToo) {
  write_tls();
  const std::vector<std::string> tls{"--tls-cert", (dir / "cert.pem").string(), "--tls-key",
                                     (dir / "key.pem").string()};
  const std::vector<std::string> token{"--token-file", (dir / "token").string()};
  for (const char* ip : {"0.0.0.0", "::"}) {
    for (const auto& arguments : {std::vector<std::string>{}, tls, token}) {
      const auto socket = listen_on(ip);
      const auto said = start(arguments, socket.get());
      EXPECT_THAT(said, testing::Not(HasSubstr("READY=1"))) << ip << " " << arguments.size();
      EXPECT_EQ(wait_end(), 1);
      EXPECT_THAT(log(), HasSubstr("is not a loopback address: that needs TLS and a token"));
      EXPECT_THAT(log(), HasSubstr("fix: give --tls-cert, --tls-key and --token-file"));
    }
  }
}

TEST_F(AuthProgram, AnInheritedSocketSpeaksTls) {
  write_tls();
  for (const char* ip : {"0.0.0.0", "127.0.0.1"}) {
    const auto socket = listen_on(ip);
    const auto said = start({"--tls-cert", (dir / "cert.pem").string(), "--tls-key",
                             (dir / "key.pem").string(), "--token-file", (dir / "token").string()},
                            socket.get());
    EXPECT_THAT(said, HasSubstr("READY=1")) << log();
    EXPECT_THAT(said, HasSubstr("https://"));
    EXPECT_THAT(get("/health"), testing::Not(HasSubstr("HTTP/1.1"))) << "plain HTTP gets no answer";
    net::Endpoint endpoint;
    endpoint.host = "127.0.0.1";
    endpoint.port = m_port;
    endpoint.kind = net::Endpoint::Kind::tls;
    net::ClientOptions options;
    options.tls.ca_pem = *base::read_file(dir / "cert.pem", 100'000);
    net::Request request;
    request.method = "GET";
    request.path = "/health";
    auto reply = net::Client(endpoint, options).send(request);
    ASSERT_TRUE(reply) << reply.error().what();
    EXPECT_EQ(reply->status, 401);
    request.headers.add("Authorization", "Bearer 0123456789abcdef");
    reply = net::Client(endpoint, options).send(request);
    ASSERT_TRUE(reply) << reply.error().what();
    EXPECT_EQ(reply->status, 200);
    ::kill(m_pid, SIGTERM);
    EXPECT_EQ(wait_end(), 0);
  }
}

TEST_F(AuthProgram, OptionsThatContradictTheInheritedSocketAreAnError) {
  const auto starts = [&](std::vector<std::string> arguments) {
    const auto socket = listen_on("127.0.0.1");
    for (auto& argument : arguments) {
      argument = argument == "PORT" ? std::to_string(m_port) : argument;
    }
    const auto said = start(arguments, socket.get());
    if (said.find("READY=1") != std::string::npos) {
      ::kill(m_pid, SIGTERM);
      EXPECT_EQ(wait_end(), 0);
      return true;
    }
    EXPECT_THAT(said, HasSubstr("the service manager handed over http://127.0.0.1:"));
    EXPECT_EQ(wait_end(), 1);
    return false;
  };
  // As the unit that dstackup writes names them.
  EXPECT_TRUE(starts({"--address", "127.0.0.1", "--port", "PORT"}));
  EXPECT_FALSE(starts({"--port", "1"}));
  EXPECT_FALSE(starts({"--address", "127.0.0.2"}));
  EXPECT_FALSE(starts({"--unix", (dir / "auth.sock").string()}));
}

// The socket unit and the service as dstackup writes it agree on the address, and systemd takes both.
TEST_F(AuthProgram, TheSocketUnitFitsTheService) {
  const fs::path units = fs::path(DSTACK_SOURCE_DIR) / "packaging/systemd";
  const auto socket = *base::read_file(units / "dstack-auth.socket", 10'000);
  auto service = *base::read_file(units / "dstack-auth.service", 10'000);
  EXPECT_THAT(socket, HasSubstr("\nListenStream=127.0.0.1:8001\n"));
  EXPECT_THAT(service, HasSubstr(R"("--address" "127.0.0.1" "--port" "8001")"));
  if (!base::find_tool("systemd-analyze")) {
    GTEST_SKIP() << "systemd-analyze is not installed";
  }
  const auto at = service.find("/usr/local/bin/dstack-auth");
  ASSERT_NE(at, std::string::npos);
  service.replace(at, std::strlen("/usr/local/bin/dstack-auth"), DSTACK_AUTH);
  std::ofstream(dir / "dstack-auth.service") << service;
  fs::create_directory(dir / "dstack-auth.service.d");
  fs::copy_file(units / "dstack-auth.service.d/socket.conf", dir / "dstack-auth.service.d/socket.conf");
  const auto errors = [&](const std::string& text) {
    std::ofstream(dir / "dstack-auth.socket") << text;
    base::Command command;
    command.argv = {"systemd-analyze", "verify", "--man=no", (dir / "dstack-auth.service").string(),
                    (dir / "dstack-auth.socket").string()};
    command.environment = {"SYSTEMD_LOG_LEVEL=warning"};
    const auto output = base::run(command);
    EXPECT_TRUE(output);
    return output ? output->err : "not run";
  };
  EXPECT_THAT(errors(socket), testing::Not(HasSubstr("dstack-auth")));
  EXPECT_THAT(errors("[Socket]\nListenStrem=1\n"), HasSubstr("dstack-auth.socket")) << "it notices nothing";
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
