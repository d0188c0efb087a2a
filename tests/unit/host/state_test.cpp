#include "host/state.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

InstallState sample() {
  InstallState s;
  s.prefix = "/p/var/lib/dstack";
  s.install_prefix = "/p";
  s.config_dir = "/p/etc/dstack";
  s.state_dir = "/p/var/lib/dstack";
  s.platform = "simulated";
  s.client_url = "http://127.0.0.1:9080";
  s.auth_port = 8001;
  s.vmm_unit = "dstack-vmm-p-1";
  s.kms_vm_id = "abc";
  s.kms_url = "https://10.0.2.2:8100";
  s.kms_ca_cert = "/p/etc/dstack/kms-ca.pem";
  s.kms_port = 8100;
  s.cid_start = 4294967295U;
  return s;
}

TEST(State, RoundTrip) {
  const auto text = to_json_text(sample());
  const auto again = parse_state(text, "x");
  ASSERT_TRUE(again) << again.error().what();
  EXPECT_EQ(to_json_text(*again), text);
  EXPECT_EQ(again->kms_vm_id, "abc");
  EXPECT_EQ(again->image, std::nullopt);
  EXPECT_EQ(again->dashboard_port(), 9080);
}

// Upstream's tools read the same file: their keys come first and in their order (spec/host.md section 1.7).
TEST(State, UpstreamKeysInOrder) {
  const auto text = to_json_text(sample());
  std::size_t at = 0;
  for (const char* key :
       {"prefix", "install_prefix", "config_dir", "state_dir", "cache_dir", "run_dir", "allowlist_path",
        "platform", "client_url", "client_token_path", "auth_port", "vmm_unit", "auth_unit", "kms_vm_id",
        "kms_url", "image", "kp_own_project", "state_version", "kms_ca_cert"}) {
    const auto found = text.find("\n  \"" + std::string(key) + "\": ");
    ASSERT_NE(found, std::string::npos) << key;
    EXPECT_GE(found, at) << key;
    at = found;
  }
}

TEST(State, ReadsWhatUpstreamWrites) {
  const auto state = parse_state(
      R"({"prefix":"/var/lib/dstack","client_url":"http://127.0.0.1:9080","auth_port":8001,"unknown":[1]})",
      "x");
  ASSERT_TRUE(state);
  EXPECT_EQ(state->auth_port, 8001);
}

TEST(State, WhatTheDirectoryFlagsChoseIsInTheLayout) {
  auto s = sample();
  EXPECT_EQ(to_json_text(s).find("libexec_dir"), std::string::npos) << "only where it was chosen";
  s.bin_dir = "/opt/bin";
  s.libexec_dir = "/opt/libexec";
  s.share_dir = "/opt/share";
  s.image_path = "/srv/images";
  s.skip_managed_binaries = true;
  s.vmm_bin = "/opt/dstack-vmm";
  s.vmm_bin_seen = "1-2";
  s.auth_bin = "/opt/dstack-auth";
  s.supervisor_bin = "/opt/dstackup";
  const auto text = to_json_text(s);
  const auto again = parse_state(text, "x");
  ASSERT_TRUE(again) << again.error().what();
  EXPECT_EQ(to_json_text(*again), text);
  EXPECT_TRUE(again->skip_managed_binaries);
  EXPECT_EQ(again->vmm_program(), "/opt/dstack-vmm");
  const auto usual = *Layout::make("/p");
  const auto layout = installed_layout(usual, *again);
  EXPECT_EQ(layout.bin, "/opt/bin");
  EXPECT_EQ(layout.libexec, "/opt/libexec");
  EXPECT_EQ(layout.share, "/opt/share");
  EXPECT_EQ(layout.images(), "/srv/images");
  EXPECT_EQ(installed_layout(usual, sample()).libexec, usual.libexec);
  EXPECT_FALSE(
      parse_state(R"({"prefix":"/p","client_url":"x","auth_port":1,"skip_managed_binaries":"yes"})", "x"));
}

// There, the directory of the programs had the name that is now that of the directory of commands.
TEST(State, AnOlderRecordsProgramsAreNotTakenForCommands) {
  const auto state = parse_state(
      R"({"prefix":"/p","client_url":"http://127.0.0.1:9080","auth_port":8001,"bin_dir":"/p/versions/1"})",
      "x");
  ASSERT_TRUE(state);
  EXPECT_EQ(state->programs_dir, "/p/versions/1");
  EXPECT_EQ(state->bin_dir, "");
  EXPECT_EQ(state->vmm_program(), "/p/versions/1/dstack-vmm");
}

TEST(State, BrokenIsNotAbsent) {
  const test::TempDir dir;
  const auto path = dir / "dstackup-state.json";
  EXPECT_EQ(*load_state(path), std::nullopt);
  EXPECT_EQ(require_state(path).error().code, base::Code::not_installed);
  const char* broken[] = {
      "",
      "{",
      "null",
      "[]",
      "{}",
      R"({"prefix":"/x","auth_port":1})",
      R"({"prefix":3,"client_url":"x","auth_port":1})",
      R"({"prefix":"/x","client_url":"x","auth_port":70000})",
      R"({"prefix":"/x","client_url":"x","auth_port":-1})",
      R"({"prefix":"/x","client_url":"x","auth_port":"1"})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"state_version":0})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"state_version":"2"})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"auth_port":2})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"platform":"vax"})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"service_manager":"launchd"})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"vmm_unit":"sshd"})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"auth_unit":"../../etc/passwd"})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"auth_unit":"dstack-auth-../x"})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"auth_unit":"dstack-vmm"})",
      R"({"prefix":"/x","client_url":"x","auth_port":1,"kp_own_project":"database"})",
  };
  for (const char* text : broken) {
    ASSERT_TRUE(base::write_file_atomic(path, text));
    const auto state = load_state(path);
    ASSERT_FALSE(state) << text;
    EXPECT_EQ(state.error().code, base::Code::state_corrupt) << text;
    EXPECT_NE(state.error().message.find(path.string()), std::string::npos);
    EXPECT_FALSE(state.error().fix.empty());
  }
}

TEST(State, OwnNames) {
  for (const char* own : {"dstack-vmm", "dstack-auth", "dstack-vmm-p-1", "dstack-auth-A.b_c-d"}) {
    EXPECT_TRUE(is_own_unit(own)) << own;
  }
  for (const char* other : {"", "sshd", "dstack", "dstack-vmm-", "dstack-vmmx", "dstack-vmm-a/b",
                            "dstack-vm-1", "dstack-vmm-a b", "xdstack-vmm"}) {
    EXPECT_FALSE(is_own_unit(other)) << other;
  }
  EXPECT_TRUE(is_own_project("dstack-kp-3443"));
  for (const char* other : {"", "dstack-kp-", "dstack-kp-x", "dstack-kp-123456", "dstack-kp-1 2", "web"}) {
    EXPECT_FALSE(is_own_project(other)) << other;
  }
}

// A FIFO in its place kept every verb waiting for ever.
TEST(State, APipeIsNoRecord) {
  const test::TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "s.json").c_str(), 0600), 0);
  const auto state = load_state(dir / "s.json");
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code, base::Code::state_corrupt);
}

TEST(State, NewerVersionIsRefused) {
  const auto state =
      parse_state(R"({"prefix":"/x","client_url":"x","auth_port":1,"state_version":2})", "the-file");
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code, base::Code::state_newer);
  EXPECT_NE(state.error().message.find("the-file"), std::string::npos);
}

TEST(State, SaveIsReadBack) {
  const test::TempDir dir;
  ASSERT_TRUE(save_state(dir / "s.json", sample()));
  const auto state = load_state(dir / "s.json");
  ASSERT_TRUE(state && *state);
  EXPECT_EQ((*state)->vmm_unit, "dstack-vmm-p-1");
}

TEST(State, DashboardPortOfOddUrls) {
  InstallState s;
  for (const char* url :
       {"", "x", "http://h:", "http://h:99999", "http://h:1/x", "http://h:123456789012345678901"}) {
    s.client_url = url;
    EXPECT_EQ(s.dashboard_port(), 0) << url;
  }
}

}  // namespace
}  // namespace dstack::host
