#include <gmock/gmock.h>

#include "unit/host/doctor_host.h"

namespace dstack::host {
namespace {

using enum Verdict;

base::Error problem(base::Code code) {
  return {code, "it is broken", {}, {}};
}

DoctorHost& installed(DoctorHost& host) {
  host.install();
  return host;
}

TEST(Doctor, StateFile) {
  DoctorHost host;
  host.expect("state-file", ok, "nothing is installed");
  host.facts.last = InstallState{};
  host.expect("state-file", ok, "taken down");
  host.facts.last.reset();
  installed(host).expect("state-file", ok, "dstackup-state.json");
  host.facts.state_problem = problem(base::Code::state_corrupt);
  host.expect("state-file", failed, "it is broken");
  EXPECT_EQ(host.run("state-file").code, base::Code::state_corrupt);
}

TEST(Doctor, Journal) {
  DoctorHost host;
  host.expect("journal", skipped, "nothing is installed");
  installed(host).expect("journal", ok, "1 entries");
  DoctorHost::write_file(host.facts.layout.journal(), "nonsense\n");
  host.expect("journal", failed, "journal");
  std::filesystem::remove(host.facts.layout.journal());
  host.expect("journal", warning, "empty");
}

TEST(Doctor, Programs) {
  DoctorHost host;
  host.expect("programs", ok, "/b");
  host.facts.auth_program.clear();
  host.expect("programs", failed, "not in /b: dstack-auth");
  host.facts.vmm_program.clear();
  host.expect("programs", failed, "not in /b: dstack-vmm, dstack-auth");
}

TEST(Doctor, Version) {
  DoctorHost host;
  host.expect("version", skipped, "nothing is installed");
  installed(host).expect("version", ok, DSTACK_VERSION);
  host.facts.state->version = "9.9.9";
  host.expect("version", warning, "programs are of version 9.9.9");
}

// spec/host.md section 1.6.
TEST(Doctor, Image) {
  DoctorHost host;
  host.expect("image", ok, "dstack-0.1.0");
  host.facts.image->os_image_hash.clear();
  host.expect("image", failed, "no digest.txt");
  EXPECT_EQ(host.run("image").code, base::Code::image_unpinned);
  host.options.allow_unpinned_image = true;
  host.expect("image", warning, "no digest.txt");
  host.options = {};
  host.options.no_kms = true;
  host.expect("image", warning, "no digest.txt");
  host.facts.image.reset();
  host.expect("image", warning, "no guest image");
  host.options = {};
  host.expect("image", failed, "no guest image");
  EXPECT_EQ(host.run("image").code, base::Code::image_missing);
  host.facts.image_problem = problem(base::Code::image_not_found);
  host.expect("image", failed, "it is broken");
  EXPECT_EQ(host.run("image").code, base::Code::image_not_found);
}

TEST(Doctor, ImagePin) {
  DoctorHost host;
  host.expect("image-pin", skipped, "nothing is installed");
  installed(host).expect("image-pin", ok, "pinned as");
  const auto image = host.facts.layout.images() / "dstack-0.1.0";
  DoctorHost::write_file(image / "kernel", "another kernel");
  host.expect("image-pin", failed, "kernel was changed");
  std::filesystem::remove(image / "kernel");
  host.expect("image-pin", failed, "kernel");
  DoctorHost::write_file(image / "kernel", "k");
  host.expect("image-pin", ok, "pinned as");
  DoctorHost::write_file(image / "sha256sum.txt", "x\n");
  host.expect("image-pin", failed, "sha256sum.txt");
  DoctorHost::write_file(image / "digest.txt", std::string(64, 'e'));
  host.expect("image-pin", failed, "pinned is");
  std::filesystem::remove_all(image);
  host.expect("image-pin", failed, "dstack-0.1.0");
  host.facts.state->os_image_hash.clear();
  host.expect("image-pin", warning, "no digest, so no app gets keys on it");
  DoctorHost::write_file(host.facts.layout.allowlist(),
                         R"({"osImages":[],"allowAnyOsImage":true,"apps":{}})");
  host.expect("image-pin", warning, "any guest image may get keys");
  EXPECT_NE(host.run("image-pin").fix.find("with a digest"), std::string::npos);
  host.facts.state->image.reset();
  host.expect("image-pin", skipped, "no guest image");
}

TEST(Doctor, KmsImage) {
  DoctorHost host;
  host.expect("kms-image", ok, "localhost/dstack-kms:" DSTACK_VERSION);
  host.facts.kms_image_in_volume = false;
  host.expect("kms-image", failed, "no volume");
  EXPECT_EQ(host.run("kms-image").code, base::Code::image_missing);
  host.options.kms_image = "registry.example/kms:1";
  host.expect("kms-image", warning, "registry");
  host.options.no_kms = true;
  host.expect("kms-image", skipped, "no KMS");
}

TEST(Doctor, SimulatedTee) {
  DoctorHost host;
  host.expect("simulated-tee", skipped, "nothing is installed");
  installed(host).expect("simulated-tee", ok, "mode 600");
  const auto seed = host.facts.layout.simulated_seed();
  std::filesystem::permissions(seed, std::filesystem::perms(0640));
  host.expect("simulated-tee", failed, "mode 640");
  std::filesystem::remove(seed);
  host.expect("simulated-tee", failed, "seed");
  host.facts.state->platform = "tdx";
  host.expect("simulated-tee", skipped, "tdx");
}

TEST(Doctor, Token) {
  DoctorHost host;
  host.expect("token", skipped, "nothing is installed");
  installed(host).expect("token", ok, "mode 600");
  const auto token = host.facts.layout.token_file();
  std::filesystem::permissions(token, std::filesystem::perms(0604));
  host.expect("token", failed, "mode 604");
  DoctorHost::write_file(token, "", 0600);
  host.expect("token", failed, "empty");
  for (const char* none : {" \n", "\"abc\"", "abc\ndef", "a b", "a\x7f"}) {
    DoctorHost::write_file(token, none, 0600);
    host.expect("token", failed, token.string());
    EXPECT_NE(host.run("token").fix.find("remove the file"), std::string::npos);
  }
  std::filesystem::remove(token);
  host.expect("token", failed, "vmm-auth-token");
}

TEST(Doctor, AllowList) {
  DoctorHost host;
  host.expect("allow-list", skipped, "nothing is installed");
  installed(host).expect("allow-list", ok, "0 apps, 1 guest images");
  const auto path = host.facts.layout.allowlist();
  DoctorHost::write_file(path, R"({"osImages":["ff"],"apps":{}})");
  host.expect("allow-list", failed, "pinned guest image is not among them");
  DoctorHost::write_file(path, "{");
  host.expect("allow-list", failed, "allow-list");
  std::filesystem::remove(path);
  host.expect("allow-list", failed, "allow-list");
  host.facts.state->os_image_hash.clear();
  DoctorHost::write_file(path, R"({"osImages":[],"allowAnyOsImage":true,"apps":{}})");
  host.expect("allow-list", warning, "any guest image");
  DoctorHost::write_file(path, R"({"osImages":[],"apps":{}})", 0666);
  host.expect("allow-list", failed, "");
}

class DoctorService : public ::testing::TestWithParam<const char*> {};

TEST_P(DoctorService, RunsOrNot) {
  const auto* const name = GetParam();
  DoctorHost host;
  host.expect(name, skipped, "nothing is installed");
  installed(host).expect(name, ok, "active, pid 77");
  const auto unit =
      std::string(name) == "vmm-service" ? host.facts.state->vmm_unit : host.facts.state->auth_unit;
  host.expect(name, ok, unit);
  host.service.restarts = 2;
  host.service.since_unix = host.now - 599;
  host.expect(name, warning, "restarted 2 times");
  host.service.since_unix = host.now - 600;
  host.expect(name, ok, "restarted 2 times");
  host.service = {};
  host.service.state = ServiceState::failed;
  host.service.result = "exit code 3";
  host.service.since_unix = 1'700'000'000;
  host.expect(name, failed, "failed since 2023-11-14 22:13:20Z: exit code 3; last log line: the last words");
  EXPECT_EQ(host.run(name).code, base::Code::service_failed);
  host.service.state = ServiceState::unknown;
  host.expect(name, failed, "unknown");
  host.facts.root = false;
  host.expect(name, skipped, "needs root");
  host.facts.root = true;
  host.probe.service = [](const std::string&) -> base::Result<ServiceStatus> {
    return base::fail(problem(base::Code::service_manager));
  };
  host.expect(name, failed, "it is broken");
}
INSTANTIATE_TEST_SUITE_P(Both, DoctorService, ::testing::Values("auth-service", "vmm-service"),
                         [](const auto& each) {
                           return std::string(each.param) == "vmm-service" ? "Vmm" : "Auth";
                         });

// A process that was stopped by a signal, or whose allow-list is broken, is active all the same.
TEST(Doctor, AWebhookThatRunsAndDoesNotAnswerIsAFailure) {
  DoctorHost host;
  installed(host).expect("auth-service", ok, "active");
  host.auth_health = base::fail(base::Code::timeout, "http://127.0.0.1:8001 does not answer");
  host.expect("auth-service", failed, "does not answer");
  host.expect("vmm-service", ok, "active");
}

TEST(Doctor, VmmApi) {
  DoctorHost host;
  host.expect("vmm-api", skipped, "nothing is installed");
  installed(host).expect("vmm-api", ok, "http://127.0.0.1:9080, 2 VMs, 1 running");
  auto code = base::Code::unauthorized;
  host.probe.ask_vmm = [&](const Layout&, const InstallState&) -> base::Result<std::string> {
    return base::fail(problem(code));
  };
  host.expect("vmm-api", failed, "it is broken");
  code = base::Code::permission;
  host.expect("vmm-api", skipped, "needs root");
}

TEST(Doctor, Kms) {
  DoctorHost host;
  host.expect("kms", skipped, "nothing is installed");
  installed(host);
  host.facts.state->platform = "tdx";
  host.expect("kms", failed, "kms-ca.pem");
  DoctorHost::write_file(host.facts.layout.kms_ca(), "the pinned root");
  std::string pinned;
  std::uint16_t port = 0;
  const auto answer = host.probe.contact_kms;
  host.probe.contact_kms = [&](const KmsExpectation& expected) {
    pinned = expected.pinned_ca_pem;
    port = expected.port;
    return answer(expected);
  };
  host.expect("kms", ok, "https://127.0.0.1:12443, root cccccccccccccccc…, evidence Simulated");
  EXPECT_EQ(pinned, "the pinned root");
  EXPECT_EQ(port, 12443);
  host.probe.contact_kms = [](const KmsExpectation&) -> base::Result<KmsContact> {
    return base::fail(problem(base::Code::kms_identity));
  };
  host.expect("kms", failed, "it is broken");
  EXPECT_EQ(host.run("kms").code, base::Code::kms_identity);
  host.facts.state->kms_ca_cert.clear();
  host.expect("kms", failed, "never ready");
  host.facts.state->kms_port = 0;
  host.expect("kms", skipped, "no KMS");
}

}  // namespace
}  // namespace dstack::host
