#include "host/vm_record.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

struct Sleeper {
  pid_t pid = 0;
  explicit Sleeper(bool deaf) {
    pid = ::fork();
    if (pid == 0) {
      ::signal(SIGTERM, deaf ? SIG_IGN : SIG_DFL);
      while (true) {
        ::pause();
      }
    }
  }
  ~Sleeper() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
};

void record(const std::filesystem::path& vm, long long pid, unsigned long long start,
            const std::string& boot = "") {
  ASSERT_TRUE(base::make_dirs(vm));
  auto boot_id = boot;
  if (boot.empty()) {
    boot_id = base::trim(*base::read_file("/proc/sys/kernel/random/boot_id"));
  }
  ASSERT_TRUE(base::write_file_atomic(
      vm / "qemu.json", base::format(R"({{"pid":{},"start_time":{},"boot_id":"{}"}})", pid, start, boot_id)));
}

TEST(VmRecord, OnlyTheVeryProcess) {
  const test::TempDir dir;
  const Sleeper sleeper(false);
  const auto start = *base::process_start_time(sleeper.pid);
  record(dir / "a", sleeper.pid, start);
  record(dir / "b", sleeper.pid, start + 1);
  record(dir / "c", sleeper.pid, start, "another-boot");
  record(dir / "d", 1, *base::process_start_time(1));
  record(dir / "e", -1, 0);
  ASSERT_TRUE(base::make_dirs(dir / "f"));
  ASSERT_TRUE(base::write_file_atomic(dir / "f/qemu.json", "nonsense"));
  ASSERT_TRUE(base::make_dirs(dir / "g"));
  const auto live = live_vms(dir.path());
  ASSERT_EQ(live.size(), 1U);
  EXPECT_EQ(live[0].id, "a");
  EXPECT_EQ(live[0].pid, sleeper.pid);
  EXPECT_TRUE(live_vms(dir / "none").empty());
}

TEST(VmRecord, KillsEvenTheDeaf) {
  const test::TempDir dir;
  const Sleeper polite(false);
  const Sleeper deaf(true);
  const Sleeper stranger(false);
  record(dir / "a", polite.pid, *base::process_start_time(polite.pid));
  record(dir / "b", deaf.pid, *base::process_start_time(deaf.pid));
  ASSERT_TRUE(kill_vms(dir.path(), std::chrono::milliseconds(50)));
  EXPECT_FALSE(base::process_start_time(polite.pid));
  EXPECT_FALSE(base::process_start_time(deaf.pid));
  EXPECT_TRUE(base::process_start_time(stranger.pid));
}

// install expected the digest of what is in the image directory now, and took a running KMS for another one.
TEST(VmRecord, TheNameIsThatOfTheManifest) {
  const test::TempDir dir;
  EXPECT_EQ(vm_name(dir.path()), "");
  for (const auto& [text, name] : {std::pair{"{\"name\":\"dstack-kms\"}", "dstack-kms"},
                                   std::pair{"{\"name\":7}", ""}, std::pair{"[", ""}, std::pair{"", ""}}) {
    ASSERT_TRUE(base::write_file_atomic(dir / "vm-manifest.json", text));
    EXPECT_EQ(vm_name(dir.path()), name);
  }
}

TEST(VmRecord, TheImageIsTheOneThatTheVmWasStartedWith) {
  const test::TempDir dir;
  EXPECT_EQ(started_image_hash(dir.path()), "");
  ASSERT_TRUE(base::make_dirs(dir / "shared"));
  const auto with = [&](const std::string& text) {
    EXPECT_TRUE(base::write_file_atomic(dir / "shared/.sys-config.json", text));
    return started_image_hash(dir.path());
  };
  EXPECT_EQ(with(R"({"vm_config":"{\"os_image_hash\":\"abc\",\"cpu_count\":1}"})"), "abc");
  for (const char* bad : {"", "{", "[]", R"({"vm_config":{}})", R"({"vm_config":"x"})",
                          R"({"vm_config":"{\"os_image_hash\":1}"})"}) {
    EXPECT_EQ(with(bad), "") << bad;
  }
}

}  // namespace
}  // namespace dstack::host
