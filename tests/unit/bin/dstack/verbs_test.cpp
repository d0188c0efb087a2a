#include "bin/dstack/verbs.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "app/allowlist_file.h"
#include "base/bytes.h"
#include "base/fs.h"
#include "crypto/x509.h"
#include "host/layout.h"
#include "host/state.h"
#include "unit/client/fake_vmm.h"
#include "unit/temp_dir.h"

using namespace dstack;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

namespace {

struct Outcome {
  int code = 0;
  std::string out;
  std::string err;
};

class Verbs : public testing::Test {
 protected:
  test::TempDir m_directory;
  std::string m_prefix = m_directory.path().string();
  host::Layout m_layout = host::Layout::make(m_prefix).value();
  test::FakeVmm m_fake{"filetoken"};
  app::AllowlistFile m_allowlist{m_layout.allowlist()};
  std::string m_compose = (m_directory / "docker-compose.yaml").string();

  void SetUp() override {
    ::unsetenv("DSTACK_VMM_TOKEN");
    ASSERT_TRUE(base::make_dirs(m_layout.state));
    ASSERT_TRUE(base::make_dirs(m_layout.config));
    host::InstallState state;
    state.prefix = m_layout.state;
    state.state_dir = m_layout.state;
    state.client_url = m_fake.url();
    state.client_token_path = m_layout.token_file();
    state.allowlist_path = m_layout.allowlist();
    state.image = "dstack-0.1.0";
    state.kms_vm_id = "kms-vm";
    state.platform = "simulated";
    state.auth_port = 8001;
    ASSERT_TRUE(host::save_state(m_layout.state_file(), state));
    ASSERT_TRUE(base::write_file_atomic(m_layout.token_file(), "filetoken", {.mode = 0600}));
    ASSERT_TRUE(m_allowlist.create_if_missing());
    ASSERT_TRUE(base::write_file_atomic(m_compose, "services:\n  web:\n    image: nginx:alpine\n"));
  }

  Outcome run_bare(std::vector<std::string> arguments) {
    std::ostringstream out;
    std::ostringstream err;
    const cli::Streams streams{out, err};
    dstack_cli::Globals globals;
    cli::Command program("dstack", "test");
    dstack_cli::declare(program, globals, streams);
    std::vector<const char*> argv{"dstack"};
    for (const auto& argument : arguments) {
      argv.push_back(argument.c_str());
    }
    const int code = program.run(static_cast<int>(argv.size()), argv.data(), streams);
    return {code, out.str(), err.str()};
  }
  Outcome run(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--prefix", m_prefix});
    return run_bare(std::move(arguments));
  }
};

}  // namespace

TEST_F(Verbs, DryRunNeedsNoInstallation) {
  test::TempDir empty;
  const auto result = run_bare(
      {"deploy", "-c", m_compose, "--dry-run", "-j", "--prefix", empty.path().string(), "--name", "app"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const auto object = json::parse(result.out);
  EXPECT_EQ(object["composeHash"], "8dfb61522d1ee9040c69d324808937c0e07a6568b6c03f10d9c076bc9aa1778b");
  EXPECT_EQ(object["appId"], "8dfb61522d1ee9040c69d324808937c0e07a6568");
  EXPECT_EQ(object["dryRun"], true);
  EXPECT_EQ(object["appCompose"].get<std::string>().size(), 337U);
  EXPECT_LT(result.out.find("composeHash"), result.out.find("appId"));
  EXPECT_LT(result.out.find("appCompose"), result.out.find("dryRun"));
}

TEST_F(Verbs, DeployPrintsProgressOnErrAndTheResultOnOut) {
  const auto result = run({"deploy", "-c", m_compose, "-n", "hello"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("deployed: vm 00000000-0000-4000-8000-"));
  EXPECT_THAT(result.err, HasSubstr("s] registered in " + m_layout.allowlist().string()));
  EXPECT_THAT(result.err, HasSubstr("s] done"));
  EXPECT_EQ(m_allowlist.apps()->size(), 1U);
}

// What install pinned goes into what is measured, so that a host cannot offer the app another KMS.
TEST_F(Verbs, DeployBindsTheAppToTheKmsOfTheInstallation) {
  const auto key = crypto::P256Key::generate();
  crypto::CertificateProfile profile;
  profile.common_name = "Dstack KMS CA";
  profile.ca_path_length = 1;
  const auto ca = crypto::self_sign(profile, *key);
  ASSERT_TRUE(ca);
  const auto path = m_layout.kms_ca();
  ASSERT_TRUE(base::write_file_atomic(path, ca->pem()));
  auto state = host::require_state(m_layout.state_file());
  state->kms_ca_cert = path;
  ASSERT_TRUE(host::save_state(m_layout.state_file(), *state));
  const auto id_of = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"deploy", "-c", m_compose, "--dry-run", "-j"});
    const auto result = run(more);
    EXPECT_EQ(result.code, 0) << result.err;
    return json::parse(json::parse(result.out)["appCompose"].get<std::string>()).value("key_provider_id", "");
  };
  EXPECT_EQ(id_of({}), base::to_hex(key->spki()));
  EXPECT_EQ(id_of({"--no-kms"}), "");
  const auto other = base::to_hex(crypto::P256Key::generate()->spki());
  EXPECT_EQ(id_of({"--key-provider-id", other}), other);
  EXPECT_EQ(id_of({"--key-provider-id", ""}), "") << "bound to none when asked for";
  const auto bad = run({"deploy", "-c", m_compose, "--dry-run", "--key-provider-id", "00ff"});
  EXPECT_EQ(bad.code, 1);
  EXPECT_THAT(bad.err, HasSubstr("--key-provider-id"));
  // A pin that is recorded and cannot be read is no reason to go without.
  ASSERT_TRUE(base::remove_file(path));
  const auto lost = run({"deploy", "-c", m_compose, "--dry-run"});
  EXPECT_EQ(lost.code, 1);
  EXPECT_THAT(lost.err, HasSubstr("KMS"));
}

TEST_F(Verbs, DeployJson) {
  const auto result = run({"run", m_compose, "--json", "--no-wait", "--port", "udp:0:53"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("warning: no service publishes"));
  const auto object = json::parse(result.out);
  EXPECT_EQ(object["appId"].get<std::string>().size(), 40U);
  EXPECT_EQ(object["composeHash"].get<std::string>().size(), 64U);
  EXPECT_EQ(object["ports"][0]["vmPort"], 53);
  EXPECT_EQ(object["ports"][0]["hostAddress"], "127.0.0.1");
  EXPECT_LE(object["ports"][0]["hostPort"].get<int>(), 20000);
}

TEST_F(Verbs, DeployErrorsAreOneClearLineAndAFix) {
  const auto bad = m_directory / "bad.yaml";
  ASSERT_TRUE(base::write_file_atomic(bad, "services: [\n"));
  const std::tuple<std::vector<std::string>, int, const char*> cases[] = {
      {{"deploy"}, 2, "error[DS2100]: no compose file"},
      {{"deploy", m_compose, "-c", m_compose}, 2, "two compose files"},
      {{"deploy", "-c", "/nonexistent.yaml"}, 1, "error[DS1002]: cannot read the compose file"},
      {{"deploy", "-c", bad.string()}, 1, "error[DS1501]: "},
      {{"deploy", "-c", m_compose, "--port", "sctp:1:2"}, 1, "error[DS1502]: "},
      {{"deploy", "-c", m_compose, "--volume", "x"}, 1, "error[DS1503]: "},
      {{"deploy", "-c", m_compose, "--image", "nope"}, 1, "error[DS2009]: "},
      {{"deploy", "-c", m_compose, "--memory", "lots"}, 2, "error[DS2100]: "},
  };
  for (const auto& [arguments, code, text] : cases) {
    const auto result = run(arguments);
    EXPECT_EQ(result.code, code) << text;
    EXPECT_THAT(result.err, HasSubstr(text));
    EXPECT_THAT(result.err, HasSubstr("\n  fix: ")) << text;
    EXPECT_EQ(result.out, "");
  }
  EXPECT_EQ(m_allowlist.apps()->size(), 0U);
  EXPECT_EQ(m_fake.calls("CreateVm"), 0);
}

TEST_F(Verbs, ABootErrorIsShownWithItsReason) {
  m_fake.on_info = [](::vmm::VmInfo& info) {
    info.set_boot_progress("requesting app keys");
    info.set_boot_error("App not allowed: Boot denied: compose hash not allowed");
  };
  auto result = run({"deploy", "-c", m_compose, "-n", "hello"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err,
              HasSubstr("error[DS2003]: hello did not start: App not allowed: Boot denied: compose hash"));
  EXPECT_EQ(result.out, "");
  result = run({"apps"});
  EXPECT_THAT(result.out, HasSubstr("error: App not allowed"));
}

TEST_F(Verbs, JsonErrorsAreOnErr) {
  const auto result = run({"deploy", "-c", m_compose, "--image", "nope", "-j"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(json::parse(result.err)["error"]["code"], "DS2009");
}

TEST_F(Verbs, AppsTableAndJson) {
  EXPECT_EQ(run({"apps"}).out, "no apps deployed\n");
  EXPECT_EQ(run({"apps", "-j"}).out, "[]\n");
  ::vmm::VmInfo vm;
  vm.set_id("0123456789abcdef");
  vm.set_name("evil\x1b[2J");
  vm.set_status("running");
  vm.set_uptime("5s");
  vm.set_app_id(std::string(40, 'a'));
  vm.set_boot_progress("done");
  auto& port = *vm.mutable_configuration()->add_ports();
  port.set_protocol("tcp");
  port.set_host_port(18080);
  port.set_vm_port(80);
  m_fake.add(vm);
  const auto text = run({"ls"}).out;
  EXPECT_THAT(text, HasSubstr("0123456789ab  evil\\x1b[2J  running  5s      18080->80  " +
                              std::string(40, 'a') + "  done"));
  const auto list = json::parse(run({"apps", "--json"}).out);
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0]["id"], "0123456789abcdef");
  EXPECT_EQ(list[0]["uptime"], "5s");
  EXPECT_EQ(list[0]["ports"][0]["hostPort"], 18080);
}

TEST_F(Verbs, LogsByNameAndPrefix) {
  ASSERT_EQ(run({"deploy", "-c", m_compose, "-n", "hello", "--no-wait"}).code, 0);
  EXPECT_EQ(run({"logs", "hello", "-n", "5"}).out, "line 1\nline 2\n");
  EXPECT_THAT(m_fake.last_log_query, HasSubstr("follow=false&ansi=false&lines=5&ch=serial"));
  EXPECT_EQ(run({"logs", "00000000-0000", "-f"}).out, "line 1\nline 2\n");
  EXPECT_THAT(m_fake.last_log_query, HasSubstr("follow=true"));
  const auto missing = run({"logs", "nope"});
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("error[DS2006]: no app matches \"nope\""));
}

TEST_F(Verbs, Info) {
  ASSERT_EQ(run({"deploy", "-c", m_compose, "-n", "hello", "--no-wait"}).code, 0);
  EXPECT_THAT(run({"info", "hello"}).out,
              AllOf(HasSubstr("name          hello\n"), HasSubstr("compose hash  ")));
  const auto object = json::parse(run({"info", "hello", "-j"}).out);
  EXPECT_EQ(object["memory"], 2048);
  EXPECT_EQ(object["composeHash"].get<std::string>().substr(0, 40), object["appId"]);
}

TEST_F(Verbs, RemoveTakesVmAndGrant) {
  ASSERT_EQ(run({"deploy", "-c", m_compose, "-n", "hello", "--no-wait"}).code, 0);
  const auto result = run({"remove", "hello"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("removed hello"));
  EXPECT_EQ(m_fake.vms().size(), 0U);
  EXPECT_EQ(m_allowlist.apps()->size(), 0U);
  ASSERT_EQ(run({"deploy", "-c", m_compose, "-n", "hello", "--no-wait"}).code, 0);
  EXPECT_EQ(json::parse(run({"rm", "hello", "--keep-grant", "-j"}).out)["grantRevoked"], false);
  EXPECT_EQ(m_allowlist.apps()->size(), 1U);
}

TEST_F(Verbs, RemoveLeavesTheKmsAlone) {
  ::vmm::VmInfo vm;
  vm.set_id("kms-vm");
  vm.set_name("dstack-kms");
  m_fake.add(vm);
  const auto result = run({"remove", "dstack-kms"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("dstackup destroy"));
  EXPECT_EQ(m_fake.vms().size(), 1U);
}

TEST_F(Verbs, EveryVerbWithoutAVmmAndWithAWrongToken) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"apps"},
                                             {"logs", "x"},
                                             {"info", "x"},
                                             {"remove", "x"},
                                             {"deploy", "-c", m_compose, "--image", "i"}}) {
    auto with = arguments;
    with.insert(with.end(), {"--host", "http://127.0.0.1:1"});
    auto result = run_bare(with);
    EXPECT_EQ(result.code, 1);
    EXPECT_THAT(result.err, HasSubstr("error[DS2000]: cannot reach the VMM at http://127.0.0.1:1"));
    EXPECT_THAT(result.err, HasSubstr("dstackup status"));
    with = arguments;
    with.insert(with.end(), {"--token", "wrong"});
    result = run(with);
    EXPECT_EQ(result.code, 1);
    EXPECT_THAT(result.err, HasSubstr("error[DS1301]: "));
    EXPECT_THAT(result.err, HasSubstr("--token"));
    EXPECT_THAT(result.err, Not(HasSubstr("wrong")));
  }
}

TEST_F(Verbs, ACorruptStateFileIsNamed) {
  ASSERT_TRUE(base::write_file_atomic(m_layout.state_file(), "{"));
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"apps"}, {"deploy", "-c", m_compose, "--dry-run"}}) {
    const auto result = run(arguments);
    EXPECT_EQ(result.code, 1);
    EXPECT_THAT(result.err, HasSubstr("error[DS1601]: "));
    EXPECT_THAT(result.err, HasSubstr(m_layout.state_file().string()));
  }
}

TEST_F(Verbs, EveryVerbHasHelpWithExamples) {
  for (const char* verb : {"deploy", "run", "apps", "ls", "logs", "info", "remove", "rm"}) {
    const auto result = run_bare({verb, "--help"});
    EXPECT_EQ(result.code, 0);
    EXPECT_THAT(result.out, HasSubstr("Examples:\n  dstack ")) << verb;
  }
}
