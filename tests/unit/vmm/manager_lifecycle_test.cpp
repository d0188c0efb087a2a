// A VM after it was created: stopped, removed, restarted, told of by its guest, found again after a crash.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "unit/vmm/lab.h"
#include "vmm/manager.h"

namespace dstack::vmm {
namespace {

using base::Code;
using lab::create;
using lab::entries;
using lab::Lab;
using lab::read;
using lab::request;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(VmLifecycle, StopStartRemove) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  ASSERT_TRUE(lab.manager->start(id)) << "starting a running VM changes nothing";
  EXPECT_EQ(lab.processes.starts, 1);
  ASSERT_TRUE(lab.manager->stop(id));
  EXPECT_EQ(lab.status(id), "stopped");
  EXPECT_FALSE(fs::exists(lab.vm(id) / "qemu.json"));
  lab.clock.advance(100'000);
  lab.manager->tick();
  EXPECT_EQ(lab.processes.starts, 1) << "a stopped VM is not restarted";
  ASSERT_TRUE(lab.manager->start(id));
  EXPECT_EQ(lab.processes.starts, 2);
  ASSERT_TRUE(lab.manager->remove(id));
  lab.manager->tick();
  EXPECT_EQ(lab.status(id), "gone");
  EXPECT_EQ(entries(lab.config.run_path), 0U);
  EXPECT_EQ(lab.manager->remove(id).error().code, Code::vm_not_found);
  EXPECT_EQ(lab.manager->stop("../etc").error().code, Code::vm_not_found);
}

TEST(VmLifecycle, RemovalWaitsForTheProcessAndSurvivesARestart) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  lab.processes.ignores_kill = true;
  ASSERT_TRUE(lab.manager->remove(id));
  EXPECT_EQ(lab.status(id), "removing");
  EXPECT_EQ(lab.manager->start(id).error().code, Code::vm_state);
  lab.processes.survivors[100] = true;
  lab.restart();
  EXPECT_EQ(lab.status(id), "removing");
  lab.processes.ignores_kill = false;
  lab.manager->tick();
  EXPECT_FALSE(lab.processes.running(id)) << "the new VM manager finishes the job";
  lab.manager->tick();
  EXPECT_EQ(lab.status(id), "gone");
}

TEST(VmLifecycle, AVmThatEndsByItselfIsNoticedAndRestartedWithBackOff) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  lab::write(lab.vm(id) / "serial.log", "Booting\n[    1.0] Kernel panic - not syncing\n\n");
  lab.clock.advance(3'000);
  lab.processes.end(id, 0);
  EXPECT_EQ(lab.status(id), "exited");
  auto view = *lab.manager->find(id);
  EXPECT_THAT(view.progress.boot_error, HasSubstr("ended by itself after 3 s"));
  EXPECT_THAT(view.progress.boot_error, HasSubstr("Kernel panic"));
  EXPECT_EQ(view.events.back().event, "vmm.exited");

  std::vector<int> starts;
  for (int second = 0; second < 60; ++second) {
    const int before = lab.processes.starts;
    lab.manager->tick();
    if (lab.processes.starts > before) {
      starts.push_back(second);
      lab.processes.end(id, 1);
    }
    lab.clock.advance(1'000);
  }
  EXPECT_THAT(starts, ElementsAre(2, 6, 11));
  view = *lab.manager->find(id);
  EXPECT_EQ(view.status, "exited");
  EXPECT_EQ(view.events.back().event, "vmm.auto_restart.exhausted");
  ASSERT_TRUE(lab.manager->start(id));
  EXPECT_EQ(lab.status(id), "running");
}

TEST(VmLifecycle, AFailedRestartIsShownAndCounts) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  fs::remove_all(lab.config.image_path / "dstack-0.6.0");
  lab.processes.end(id, 0);
  for (int second = 0; second < 60; ++second) {
    lab.manager->tick();
    lab.clock.advance(1'000);
  }
  const auto view = *lab.manager->find(id);
  EXPECT_THAT(view.progress.boot_error, HasSubstr("dstack-0.6.0"));
  EXPECT_EQ(view.events.back().event, "vmm.auto_restart.exhausted");
}

TEST(VmLifecycle, GuestEvents) {
  Lab lab;
  lab.config.event_buffer_size = 3;
  lab.restart();
  const auto id = create(lab, request());
  ASSERT_TRUE(lab.manager->notify(id, "boot.progress", "requesting app keys"));
  ASSERT_TRUE(lab.manager->notify(id, "boot.error", "denied\x1b[31m"));
  ASSERT_TRUE(lab.manager->notify(id, "instance.info", R"({"instance_id":"aabb","app_id":"cc"})"));
  EXPECT_FALSE(lab.manager->notify(id, "instance.info", "not json"));
  ASSERT_TRUE(lab.manager->notify(id, "boot.progress", std::string(4097, 'x'))) << "too long: dropped";
  ASSERT_TRUE(lab.manager->notify(id, "something else", "x"));
  auto view = *lab.manager->find(id);
  EXPECT_EQ(view.progress.boot_progress, "requesting app keys");
  EXPECT_EQ(view.progress.boot_error.find('\x1b'), std::string::npos);
  EXPECT_EQ(view.instance_id, "aabb");
  EXPECT_EQ(view.events.size(), 3U);
  EXPECT_EQ(view.events.back().event, "something else");
  EXPECT_EQ(read(lab.vm(id) / "shared/.instance_info"), R"({"instance_id":"aabb","app_id":"cc"})");

  // Progress outlives the VM manager.
  lab.processes.survivors[100] = true;
  lab.restart();
  EXPECT_EQ(lab.manager->find(id)->progress.boot_progress, "requesting app keys");
  EXPECT_EQ(lab.manager->find(id)->instance_id, "aabb");
  EXPECT_EQ(lab.manager->notify("other", "boot.progress", "x").error().code, Code::vm_not_found);
}

TEST(VmLifecycle, AGuestThatPowersOffStaysStopped) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  ASSERT_TRUE(lab.manager->notify(id, "shutdown.progress", "powering off"));
  EXPECT_EQ(lab.status(id), "stopping");
  lab.processes.end(id, 0);
  EXPECT_EQ(lab.status(id), "stopped");
  EXPECT_TRUE(lab.manager->find(id)->progress.boot_error.empty());
}

TEST(VmLifecycle, ShutdownAsksTheGuest) {
  Lab lab;
  lab.restart();
  const auto id = create(lab, request());
  lab.guest_silent = true;
  const auto refused = lab.manager->shutdown(id);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::guest_unreachable);
  EXPECT_THAT(refused.error().fix, HasSubstr("StopVm"));
  EXPECT_EQ(lab.status(id), "running");
  lab.guest_silent = false;
  ASSERT_TRUE(lab.manager->shutdown(id));
  EXPECT_NE(lab.shutdown_port, 0);
  EXPECT_EQ(lab.manager->vm_of_token(lab.shutdown_token), id);
  lab.processes.end(id, 0);
  EXPECT_EQ(lab.status(id), "stopped") << "an end that was asked for is not restarted";
  EXPECT_EQ(lab.manager->shutdown(id).error().code, Code::vm_state);
}

TEST(VmLifecycle, TokensNameTheirVm) {
  Lab lab;
  lab.restart();
  const auto first = create(lab, request());
  const auto second = create(lab, request());
  const auto token = [&](const std::string& id) {
    return json::parse(read(lab.vm(id) / "shared/.sys-config.json"))["host_api_token"].get<std::string>();
  };
  EXPECT_NE(token(first), token(second));
  EXPECT_EQ(lab.manager->vm_of_token(token(second)), second);
  EXPECT_FALSE(lab.manager->vm_of_token(""));
  EXPECT_FALSE(lab.manager->vm_of_token(token(first).substr(1)));
}

TEST(VmLifecycle, RestartAdoptsRunningVmsAndStartsTheOthers) {
  Lab lab;
  lab.restart();
  const auto alive = create(lab, request());    // pid 100
  const auto dead = create(lab, request());     // pid 101
  const auto stopped = create(lab, request());  // pid 102
  ASSERT_TRUE(lab.manager->stop(stopped));
  const auto unrecorded = create(lab, request());  // pid 103
  fs::remove(lab.vm(unrecorded) / "qemu.json");
  lab.processes.survivors = {{100, true}, {103, true}};
  lab.processes.unrecorded = {{unrecorded, 103}};
  const int before = lab.processes.starts;
  lab.restart();
  EXPECT_EQ(lab.status(alive), "running");
  EXPECT_EQ(lab.status(unrecorded), "running") << "D6: died between the start and its record";
  EXPECT_EQ(lab.status(dead), "exited");
  EXPECT_EQ(lab.status(stopped), "stopped");
  EXPECT_EQ(lab.processes.starts, before) << "no double launch";
  lab.manager->tick();
  EXPECT_EQ(lab.processes.starts, before + 1);
  EXPECT_EQ(lab.status(dead), "running");
  EXPECT_TRUE(fs::exists(lab.vm(unrecorded) / "qemu.json"));
}

// After a reboot of the host: an app whose KMS is not up yet would get no keys and power off for good.
TEST(VmLifecycle, VmsThatNeedKeysWaitForTheOneThatGivesThem) {
  Lab lab;
  lab.restart();
  auto app = request();
  app.set_compose_file(lab::compose(R"(,"kms_enabled":true)"));
  const auto first = create(lab, app);
  const auto kms = create(lab, request());
  const auto second = create(lab, app);
  const auto rebooted = [&] {
    lab.restart();
    lab.manager->tick();
    lab.manager->tick();
    EXPECT_EQ(lab.status(kms), "running");
    EXPECT_EQ(lab.status(first), "exited") << "the KMS still boots";
    EXPECT_EQ(lab.status(second), "exited");
  };
  rebooted();
  ASSERT_TRUE(lab.manager->notify(kms, "boot.progress", "done"));
  lab.manager->tick();
  EXPECT_EQ(lab.status(first), "running");
  EXPECT_EQ(lab.status(second), "running");

  rebooted();
  ASSERT_TRUE(lab.manager->notify(kms, "boot.error", "no disk"));
  lab.manager->tick();
  EXPECT_EQ(lab.status(first), "running") << "it will not come, and the app may have another";

  rebooted();
  lab.clock.advance(181'000);
  lab.manager->tick();
  EXPECT_EQ(lab.status(first), "running") << "nobody waits for ever";
}

TEST(VmLifecycle, AStopThatACrashCutOffIsFinished) {
  Lab lab;
  lab.restart();
  const auto stopped = create(lab, request());
  const auto powering_off = create(lab, request());
  ASSERT_TRUE(lab.manager->notify(powering_off, "shutdown.progress", "powering off"));
  lab::write(lab.vm(stopped) / "vm-state.json", R"({"started":false})");
  lab.processes.survivors = {{100, true}, {101, true}};
  lab.restart();
  EXPECT_EQ(lab.status(stopped), "stopping");
  lab.manager->tick();
  EXPECT_EQ(lab.status(stopped), "stopped");
  EXPECT_EQ(lab.status(powering_off), "stopping") << "the guest is busy with it";
}

TEST(VmLifecycle, AStartThatFailsLeavesAStoppedVmStopped) {
  Lab lab;
  lab.restart();
  auto what = request();
  what.set_stopped(true);
  const auto id = create(lab, what);
  lab.processes.fail_starts = true;
  EXPECT_FALSE(lab.manager->start(id));
  EXPECT_EQ(lab.status(id), "stopped");
  EXPECT_EQ(read(lab.vm(id) / "vm-state.json"), R"({"started":false})");
}

TEST(VmLifecycle, OneCorruptRecordDoesNotStopTheOthers) {
  Lab lab;
  lab.restart();
  const auto good = create(lab, request());
  const auto bad = create(lab, request());
  lab::write(lab.vm(bad) / "vm-manifest.json", "{\"id\":");
  fs::create_directories(lab.config.run_path / ".new-123/shared");
  fs::create_directories(lab.config.run_path / ".removed-123");
  fs::create_directories(lab.config.run_path / "not a vm");
  lab.processes.survivors = {{100, true}, {101, true}};
  lab.restart();
  EXPECT_EQ(lab.status(good), "running");
  const auto view = lab.manager->find(bad);
  ASSERT_TRUE(view);
  ASSERT_TRUE(view->broken);
  EXPECT_EQ(view->broken->code, Code::vm_record);
  EXPECT_FALSE(view->broken->fix.empty());
  EXPECT_FALSE(lab.manager->start(bad));
  EXPECT_FALSE(fs::exists(lab.config.run_path / ".new-123")) << "leftovers of a crash go";
  EXPECT_FALSE(fs::exists(lab.config.run_path / ".removed-123"));
  EXPECT_TRUE(fs::exists(lab.config.run_path / "not a vm")) << "what is not ours stays";
  ASSERT_TRUE(lab.manager->remove(bad));
  EXPECT_EQ(lab.status(bad), "gone");
}

}  // namespace
}  // namespace dstack::vmm
