// dstack-auth as a program: how it starts, says so, stops, and what it refuses.
#include "integration/auth_program.h"
#include "support/replaced_list.h"

namespace fs = std::filesystem;
using namespace dstack;
using namespace dstack::test;
using net::test::RawSocket;
using testing::HasSubstr;

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

TEST_F(AuthProgram, OptionsThatWouldDoNothingAreErrors) {
  const auto file = (dir / "auth.sock").string();
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--kms"}, "--kms requires --explain"},
      {{"--log-level", "zzz"}, "choose debug, info, warn or error"},
      {{"--policy", "zzz"}, "choose single-operator or strict"},
      {{"--unix", file, "--address", "127.0.0.1"}, "--address excludes --unix"},
      {{"--unix", file, "--port", "1"}, "--port excludes --unix"},
      {{"--unix", file, "--tls-cert", "a", "--tls-key", "b"}, "--unix excludes --tls-cert"},
      {{"--tls-cert", "a"}, "--tls-cert requires --tls-key"},
      {{"--tls-key", "a"}, "--tls-key requires --tls-cert"},
      {{"--check", "--explain", "x"}, "--check excludes --explain"},
  };
  for (const auto& [arguments, error] : cases) {
    const auto output = run(arguments);
    EXPECT_EQ(output.exit_code, 2) << error;
    EXPECT_THAT(output.err, HasSubstr(error));
    EXPECT_THAT(output.err, HasSubstr("fix: see \"dstack-auth --help\""));
  }
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
  // Just now there is a 503 at most, or an end where thousands are being told already. But the crowd, which
  // stays, cannot keep the next one out.
  EXPECT_THAT(ask(), testing::AnyOf(HasSubstr("503"), testing::IsEmpty(), HasSubstr("\"isAllowed\":true")));
  std::string during;
  for (int i = 0; i < 100 && during.find("isAllowed") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    during = ask();
  }
  EXPECT_THAT(during, HasSubstr("\"isAllowed\":true"));
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
  test::expect_either_version(m_port, post(boot_info()), 10'000, [&](int i) { write(i % 2 == 0 ? b : a); });
}
