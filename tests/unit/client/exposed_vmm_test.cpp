// A VMM behind TLS on an address of its own: real handshakes on the loopback network.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fs.h"
#include "client/access.h"
#include "client/known_hosts.h"
#include "client/vmm_client.h"
#include "host/tls_identity.h"
#include "net/server.h"
#include "unit/client/fake_vmm.h"
#include "unit/temp_dir.h"

using namespace dstack;
using base::Code;
using testing::HasSubstr;

namespace {

class ExposedVmm : public testing::Test {
 protected:
  void SetUp() override {
    ::setenv("XDG_CONFIG_HOME", directory.path().c_str(), 1);
    ::unsetenv("DSTACK_VMM_FINGERPRINT");
    ::unsetenv("DSTACK_VMM_TOKEN");
    const auto key = directory / "key";
    const auto certificate = directory / "certificate";
    ASSERT_TRUE(host::ensure_tls_identity(key, certificate, "127.0.0.2"));
    fingerprint = host::read_fingerprint(certificate).value();
    const net::ServerTls tls{*base::read_file(certificate), *base::read_file(key), {}};
    server = std::make_unique<net::Server>([this](const net::Request& request) {
      ++requests;
      return vmm.handle(request);
    });
    const auto port = server->listen_tcp("127.0.0.2", 0, tls);
    ASSERT_TRUE(port) << port.error().what();
    url = "https://127.0.0.2:" + std::to_string(*port);
    server->start();
  }
  void TearDown() override {
    ::unsetenv("XDG_CONFIG_HOME");
    ::unsetenv("DSTACK_VMM_FINGERPRINT");
  }

  base::Result<> ask(std::optional<std::string> pin) const {
    client::AccessOptions options;
    options.host = url;
    options.token = "secret";
    options.fingerprint = std::move(pin);
    DS_TRY(const auto access, client::resolve_access(options));
    DS_CHECK(client::VmmClient(access.endpoint, access.token, access.pin).vms(/*brief=*/true));
    return {};
  }

  test::TempDir directory;
  test::FakeVmm vmm{"secret"};
  std::unique_ptr<net::Server> server;
  std::atomic<int> requests = 0;
  std::string url, fingerprint;
};

}  // namespace

TEST_F(ExposedVmm, AnswersWhoPinsItsCertificate) {
  const auto answer = ask(fingerprint);
  ASSERT_TRUE(answer) << answer.error().what();
  EXPECT_EQ(requests, 1);
}

TEST_F(ExposedVmm, IsNotTalkedToBeforeItIsKnown) {
  const auto answer = ask(std::nullopt);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::vmm_identity);
  EXPECT_THAT(answer.error().message, HasSubstr("not known yet"));
  EXPECT_THAT(answer.error().what(), HasSubstr(fingerprint));
  EXPECT_THAT(answer.error().fix, HasSubstr("--fingerprint " + fingerprint));
  EXPECT_EQ(requests, 0) << "the token must not leave before the certificate is accepted";
}

TEST_F(ExposedVmm, AWrongFingerprintEndsTheHandshake) {
  const auto answer = ask("sha256:" + std::string(64, '0'));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::vmm_identity);
  EXPECT_THAT(answer.error().message, HasSubstr("is not the VMM that was pinned"));
  EXPECT_THAT(answer.error().cause, AllOf(HasSubstr(std::string(64, '0')), HasSubstr(fingerprint)));
  EXPECT_EQ(requests, 0);
}

TEST_F(ExposedVmm, APinIsRememberedWhenItHasProved) {
  ASSERT_FALSE(ask("sha256:" + std::string(64, '0')));
  EXPECT_FALSE(ask(std::nullopt)) << "a pin that never proved was kept";
  ASSERT_TRUE(ask(fingerprint));
  EXPECT_TRUE(ask(std::nullopt));
  EXPECT_EQ(base::read_file(directory / "dstack/known_hosts"), url.substr(8) + " " + fingerprint + "\n");
  // The environment is for one command and is not kept; it counts before what is known.
  ::setenv("DSTACK_VMM_FINGERPRINT", ("sha256:" + std::string(64, '1')).c_str(), 1);
  EXPECT_FALSE(ask(std::nullopt));
  ::setenv("DSTACK_VMM_FINGERPRINT", fingerprint.c_str(), 1);
  EXPECT_TRUE(ask(std::nullopt));
}

TEST_F(ExposedVmm, AnotherCertificateThanTheKnownOneIsRefused) {
  client::KnownHosts known(directory / "dstack/known_hosts");
  ASSERT_TRUE(known.remember("192.0.2.1:1", fingerprint));
  ASSERT_TRUE(known.remember(url.substr(8), "sha256:" + std::string(64, '2')));
  const auto answer = ask(std::nullopt);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::vmm_identity);
  ASSERT_TRUE(ask(fingerprint)) << "a new pin replaces the old one";
  EXPECT_TRUE(ask(std::nullopt));
  EXPECT_EQ(*known.find("192.0.2.1:1"), fingerprint);
}

TEST_F(ExposedVmm, ADamagedPinFileIsAnError) {
  ASSERT_TRUE(base::make_dirs(directory / "dstack"));
  ASSERT_TRUE(
      base::write_file_atomic(directory / "dstack/known_hosts", "# pins\n" + url.substr(8) + " sha256:zz\n"));
  const auto answer = ask(std::nullopt);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::parse);
  EXPECT_THAT(answer.error().message, HasSubstr("known_hosts:2"));
}

TEST_F(ExposedVmm, NotTlsAtAllIsSaidSo) {
  client::AccessOptions options;
  options.host = "https" + vmm.url().substr(4);
  options.fingerprint = fingerprint;
  const auto access = client::resolve_access(options);
  ASSERT_TRUE(access);
  const auto answer = client::VmmClient(access->endpoint, "secret", access->pin).vms();
  ASSERT_FALSE(answer);
  EXPECT_NE(answer.error().code, Code::vmm_identity);
}

TEST_F(ExposedVmm, AFingerprintNeedsHttps) {
  client::AccessOptions options;
  options.host = vmm.url();
  options.fingerprint = fingerprint;
  const auto access = client::resolve_access(options);
  ASSERT_FALSE(access);
  EXPECT_EQ(access.error().code, Code::usage);
  options.host = url;
  options.fingerprint = "sha256:12";
  EXPECT_FALSE(client::resolve_access(options));
}
