#include "host/key_provider.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using base::Code;
using testing::HasSubstr;

class KeyProvider : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(base::make_dirs(layout.share / "local-key-provider/build"));
    ASSERT_TRUE(base::write_file_atomic(layout.share / "local-key-provider/build/docker-compose.yaml",
                                        "services: {}\n"));
  }
  std::string fake_docker(const std::string& script) const {
    const auto path = directory / "docker";
    EXPECT_TRUE(base::write_file_atomic(path, "#!/bin/sh\n" + script, {.mode = 0755, .force_mode = true}));
    return path.string();
  }
  void expect_refused(PlatformKind platform, const KeyProviderFlags& flags, const std::string& thing) const {
    const auto plan = plan_key_provider(platform, flags, layout);
    ASSERT_FALSE(plan) << thing;
    EXPECT_EQ(plan.error().code, Code::invalid_argument);
    EXPECT_THAT(plan.error().message, HasSubstr(thing));
    EXPECT_FALSE(plan.error().fix.empty());
  }

  test::TempDir directory;
  Layout layout = *Layout::make((directory / "p").string());
};

// The table of spec/host.md section 1.8.
TEST_F(KeyProvider, TdxStartsItsOwn) {
  const auto plan = plan_key_provider(PlatformKind::tdx, {}, layout);
  ASSERT_TRUE(plan) << plan.error().what();
  EXPECT_EQ(plan->address, "127.0.0.1");
  EXPECT_EQ(plan->port, 3443);
  EXPECT_EQ(plan->project, "dstack-kp-3443");
  EXPECT_EQ(plan->compose_file, layout.share / "local-key-provider/build/docker-compose.yaml");
  const auto other = plan_key_provider(PlatformKind::tdx, {.port = 4000}, layout);
  EXPECT_EQ(other->project, "dstack-kp-4000");
}

TEST_F(KeyProvider, NothingIsStartedWithNoStartOrOnSnpOrWhenOneRuns) {
  const auto idle = plan_key_provider(PlatformKind::tdx, {.no_start = true}, layout);
  ASSERT_TRUE(idle);
  EXPECT_EQ(idle->address, "127.0.0.1");
  EXPECT_EQ(idle->project, "");
  const auto snp = plan_key_provider(PlatformKind::amd_sev_snp, {.port = 3500}, layout);
  ASSERT_TRUE(snp);
  EXPECT_EQ(snp->address, "127.0.0.1");
  EXPECT_EQ(snp->port, 3500);
  EXPECT_EQ(snp->project, "");
  const auto existing = plan_key_provider(PlatformKind::tdx, {.existing = "kp.example:3443"}, layout);
  ASSERT_TRUE(existing);
  EXPECT_EQ(existing->address, "kp.example");
  EXPECT_EQ(existing->port, 3443);
  EXPECT_EQ(existing->project, "");
  // Split at the last colon.
  EXPECT_EQ(plan_key_provider(PlatformKind::tdx, {.existing = "fd00::1:3443"}, layout)->address, "fd00::1");
  EXPECT_EQ(plan_key_provider(PlatformKind::simulated, {}, layout)->address, "");
}

TEST_F(KeyProvider, FlagsThatDoNotFitAreRefused) {
  for (const auto* bad : {"", ":1", "host", "host:", "host:0", "host:65536", "host:12x", "host:-1"}) {
    expect_refused(PlatformKind::tdx, {.existing = bad}, "--use-existing-key-provider");
  }
  expect_refused(PlatformKind::tdx, {.port = 0}, "--key-provider-port 0");
  expect_refused(PlatformKind::simulated, {.port = 3443}, "--key-provider-port");
  expect_refused(PlatformKind::simulated, {.existing = "a:1"}, "--use-existing-key-provider");
  expect_refused(PlatformKind::simulated, {.source = "/x"}, "--key-provider-src");
  expect_refused(PlatformKind::amd_sev_snp, {.source = "/x"}, "--key-provider-src");
}

TEST_F(KeyProvider, WithoutAComposeFileTheWayOutIsNamed) {
  const auto plan = plan_key_provider(PlatformKind::tdx, {.source = (directory / "none").string()}, layout);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, Code::key_provider);
  EXPECT_THAT(plan.error().message, HasSubstr((directory / "none/docker-compose.yaml").string()));
  EXPECT_THAT(plan.error().fix, HasSubstr("--use-existing-key-provider"));
}

TEST_F(KeyProvider, DockerComposeIsCalledAsSpecified) {
  const auto log = directory / "log";
  const auto docker = fake_docker("echo \"$KEY_PROVIDER_PORT|$*\" >> " + log.string() + "\n");
  const auto plan = plan_key_provider(PlatformKind::tdx, {.port = 4000}, layout);
  ASSERT_TRUE(plan);
  ASSERT_TRUE(start_key_provider(*plan, docker));
  EXPECT_TRUE(stop_key_provider(plan->project, docker).value());
  EXPECT_EQ(base::read_file(log), "4000|compose -p dstack-kp-4000 -f " + plan->compose_file.string() +
                                      " up -d\n|compose -p dstack-kp-4000 down\n");
}

TEST_F(KeyProvider, WhatDockerSaysIsTheCause) {
  const auto plan = plan_key_provider(PlatformKind::tdx, {}, layout);
  const auto started = start_key_provider(*plan, fake_docker("echo 'no such image aesmd' >&2; exit 17\n"));
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, Code::key_provider);
  EXPECT_THAT(started.error().cause, HasSubstr("no such image aesmd"));
}

TEST_F(KeyProvider, WithoutDockerThereIsNothingToStop) {
  const auto none = (directory / "no-docker").string();
  const auto plan = plan_key_provider(PlatformKind::tdx, {}, layout);
  ASSERT_TRUE(plan);
  const auto started = start_key_provider(*plan, none);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("docker is not installed"));
  const auto stopped = stop_key_provider(plan->project, none);
  ASSERT_TRUE(stopped) << stopped.error().what();
  EXPECT_FALSE(*stopped);
  // One that fails is another thing: its containers may run.
  EXPECT_FALSE(stop_key_provider(plan->project, fake_docker("exit 1\n")));
}

}  // namespace
}  // namespace dstack::host
