#include "host/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "base/process.h"
#include "host/tls_identity.h"
#include "unit/temp_dir.h"

using namespace dstack;
using testing::Contains;
using testing::Field;
using testing::HasSubstr;
using testing::Not;

namespace {

class Support : public testing::Test {
 protected:
  void write(const std::filesystem::path& path, const std::string& text) const {
    ASSERT_TRUE(base::make_dirs(path.parent_path()));
    ASSERT_TRUE(base::write_file_atomic(path, text, {.mode = 0600}));
  }
  static const host::SupportItem* find(const std::vector<host::SupportItem>& items, const std::string& name) {
    for (const auto& item : items) {
      if (item.name == name) {
        return &item;
      }
    }
    return nullptr;
  }
  std::vector<host::SupportItem> collect(std::vector<host::SupportItem> extra = {}) const {
    return host::collect_support(layout, "test", std::move(extra));
  }

  test::TempDir directory;
  host::Layout layout = host::Layout::make((directory / "prefix").string()).value();
};

}  // namespace

TEST_F(Support, NoCanaryGetsOut) {
  const std::string token = "ca9a12f0000000000000000000000000000000000000000000000000000000f1";
  const std::string seed = "ca9a12f0000000000000000000000000000000000000000000000000000000f2";
  const std::string guest_token = "ca9a12f0000000000000000000000000000000000000000000000000000000f3";
  const std::string guest_seed = "ca9a12f0000000000000000000000000000000000000000000000000000000f4";
  write(layout.token_file(), token);
  write(layout.simulated_seed(), seed + "\n");
  ASSERT_TRUE(
      host::ensure_tls_identity(layout.config / "vmm-tls.key", layout.config / "vmm-tls.pem", "127.0.0.2"));
  write(layout.config / "other.key",
        "-----BEGIN PRIVATE KEY-----\nCANARYKEYLINE0001\n-----END PRIVATE KEY-----\n");
  write(layout.vmm_toml(),
        "address = \"tcp:127.0.0.1:9080\"\n[auth]\ntokens = [\"CANARY-TOML-TOKEN\"]\n"
        "token_file = \"/x/vmm-auth-token\"\n");
  write(layout.allowlist(), "{\"osImages\":[\"aa\"]}");
  write(layout.state_file(), "{\"client_token_path\":\"/x\",\"token\":\"CANARY-STATE\"}");
  write(layout.journal(), "{\"kind\":\"file\",\"name\":\"/x\"}\n");
  const auto vm = layout.vms() / "vm-1";
  write(vm / "host-api.token", guest_token);
  write(vm / "vm-manifest.json", "{\"id\":\"vm-1\",\"api_key\":\"CANARY-MANIFEST\"}");
  write(vm / "shared/.sys-config.json",
        "{\"host_api_token\":\"" + guest_token + "\",\"kms_urls\":[\"https://10.0.2.2\"]}");
  write(vm / "shared/.tee-simulator.json", "{\"mock_attestation_seed\":\"" + guest_seed + "\"}");
  write(vm / "shared/.user-config", "{\"db_password\":\"CANARY-USER-CONFIG\"}");
  write(vm / "shared/.encrypted-env", "CANARY-ENCRYPTED");
  write(vm / "shared/app-compose.json", "{\"docker_compose_file\":\"CANARY-COMPOSE\"}");
  const auto key = *base::read_file(layout.config / "vmm-tls.key");
  const auto key_line = key.substr(key.find('\n') + 1, 64);
  write(vm / "serial.log", "boot\ngot " + guest_token + " and CANARY-USER-CONFIG\nkey " + key_line + "\n");
  write(layout.logs() / "dstack-vmm.log",
        "GET / Authorization: Bearer CANARY-BEARER\nseed " + seed + "\nbase64 " +
            base::to_base64(*base::from_hex(token)) +
            "\npassword=CANARY-PASSWORD\nGET https://user:CANARYurl4@host/\n"
            "Proxy-Authorization: Digest a=\"CANARY-DIGEST\", b=CANARY-B\n"
            "https_proxy=me:CANARY-PROXY@proxy:3128\n" +
            key + "\nthe end\n");
  const auto items = collect({{"doctor.txt", "token is " + token + "\nall is well\n"}});
  for (const auto& item : items) {
    for (const auto& canary : {token, seed, guest_token, guest_seed, key_line,
                               base::to_base64(*base::from_hex(token)), std::string("CANARY")}) {
      EXPECT_THAT(item.text, Not(HasSubstr(canary))) << item.name;
    }
    EXPECT_THAT(item.name, Not(HasSubstr("encrypted-env")));
    EXPECT_THAT(item.name, Not(HasSubstr("app-compose")));
    EXPECT_THAT(item.name, Not(HasSubstr(".key")));
  }
  // What is no secret is still there.
  EXPECT_THAT(find(items, "doctor.txt")->text, HasSubstr("all is well"));
  EXPECT_THAT(find(items, "config/vmm.toml")->text, HasSubstr("token_file = \"/x/vmm-auth-token\""));
  EXPECT_THAT(find(items, "log/dstack-vmm.log")->text, HasSubstr("the end"));
  EXPECT_THAT(find(items, "vm/vm-1/.sys-config.json")->text, HasSubstr("https://10.0.2.2"));
  EXPECT_THAT(find(items, "config/vmm-tls.pem")->text, HasSubstr("BEGIN CERTIFICATE"));
  EXPECT_NE(find(items, "state/journal"), nullptr);
  EXPECT_NE(find(items, "host/versions.txt"), nullptr);
  EXPECT_THAT(find(items, "files.txt")->text, HasSubstr("vmm-auth-token"));
  // And so in the archive itself.
  const auto path = directory / "out.tar.gz";
  ASSERT_TRUE(host::write_support_archive(path, "dstack-support-1", items, 1'700'000'000));
  struct stat info = {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  const auto unpacked = base::run({.argv = {"tar", "-xzOf", path.string()}, .output_limit = 256UL << 20});
  ASSERT_TRUE(unpacked);
  EXPECT_EQ(unpacked->exit_code, 0) << unpacked->err;
  EXPECT_THAT(unpacked->out, HasSubstr("all is well"));
  EXPECT_EQ(unpacked->out.find("CANARY"), std::string::npos);
  EXPECT_EQ(unpacked->out.find(token), std::string::npos);
  const auto names = base::run({.argv = {"tar", "-tzf", path.string()}});
  EXPECT_THAT(names->out, HasSubstr("dstack-support-1/config/vmm.toml\n"));
}

TEST_F(Support, TokensOfOtherHostsOnCommandLinesStayHere) {
  using namespace std::string_literals;
  const auto proc = directory / "proc";
  write(proc / "41/cmdline", "/usr/bin/dstack\0ls\0--host\0https://vmm.example\0--token\0CANARY one\0"s);
  write(proc / "42/cmdline", "dstack\0ls\0--token=CANARY,two\0"s);
  write(proc / "43/cmdline", "other\0--token\0x\0"s);
  const auto items = host::collect_support(layout, "test", {}, proc);
  const auto* item = find(items, "host/processes.txt");
  ASSERT_NE(item, nullptr);
  EXPECT_THAT(item->text, HasSubstr("41 /usr/bin/dstack ls --host https://vmm.example --token [redacted]\n"));
  EXPECT_THAT(item->text, HasSubstr("42 dstack ls --token=[redacted]\n"));
  EXPECT_THAT(item->text, Not(HasSubstr("other")));
}

TEST_F(Support, WorksOnWhatIsBroken) {
  const auto nothing = collect();
  ASSERT_NE(find(nothing, "problems.txt"), nullptr);
  EXPECT_THAT(find(nothing, "problems.txt")->text, HasSubstr("dstackup-state.json"));
  write(layout.state_file(), "not JSON \xff\x00\x01");
  write(layout.journal(), "torn {");
  ASSERT_TRUE(base::make_dirs(layout.vmm_toml()));  // a directory in its place
  std::filesystem::create_symlink("/etc/shadow", layout.config / "x.pem");
  ASSERT_TRUE(base::make_dirs(layout.vms() / "vm-2"));
  std::filesystem::create_symlink("/etc/shadow", layout.vms() / "vm-2/serial.log");
  ASSERT_EQ(::mkfifo((layout.vms() / "vm-2/stdout.log").c_str(), 0600), 0);
  const auto items = collect();
  EXPECT_THAT(find(items, "state/dstackup-state.json")->text, HasSubstr("not JSON"));
  EXPECT_THAT(find(items, "state/journal")->text, HasSubstr("torn"));
  EXPECT_THAT(find(items, "problems.txt")->text, HasSubstr("vmm.toml"));
  EXPECT_EQ(find(items, "vm/vm-2/serial.log"), nullptr) << "a link leads out of the VM's directory";
  EXPECT_EQ(find(items, "config/x.pem"), nullptr);
}

TEST_F(Support, LongLogsAreCutAtALine) {
  std::string log;
  for (int i = 0; i < 100'000; ++i) {
    log += "line " + std::to_string(i) + "\n";
  }
  write(layout.logs() / "dstack-vmm.log", log);
  const auto items = collect();
  const auto* item = find(items, "log/dstack-vmm.log");
  ASSERT_NE(item, nullptr);
  EXPECT_LT(item->text.size(), 600U * 1024);
  EXPECT_THAT(item->text, HasSubstr("[the last"));
  EXPECT_THAT(item->text, HasSubstr("\nline 99999\n"));
}

TEST_F(Support, AnArchiveThatCannotBeWrittenIsAnError) {
  EXPECT_FALSE(host::write_support_archive(directory / "missing/out.tar.gz", "x", {{"a", "b"}}, 0));
}
