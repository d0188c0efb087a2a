// A supervisor of its own for each test, whose services are this test program (run_role in
// supervisor_test.cpp).
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/fs.h"
#include "base/process.h"
#include "host/service_manager.h"
#include "host/supervisor.h"
#include "unit/temp_dir.h"

namespace dstack::host {

using namespace std::chrono_literals;

template <class Condition>
bool eventually(Condition condition, std::chrono::milliseconds limit = 5s) {
  for (const auto end = std::chrono::steady_clock::now() + limit; std::chrono::steady_clock::now() < end;) {
    if (condition()) {
      return true;
    }
    std::this_thread::sleep_for(5ms);
  }
  return condition();
}

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    layout = *Layout::make((dir / "p").string());
    ASSERT_TRUE(base::make_dirs(layout.run));
    options.run = layout.run;
    options.logs = layout.logs();
    instance = "test-" + dir.path().filename().string();
    if (use_cgroup()) {
      options.cgroup_root = supervisor_cgroup_root(instance).value();
    }
    manager_options.layout = layout;
    manager_options.instance = instance;
    manager_options.may_start = false;
    manager = make_supervisor_manager(manager_options);
    ASSERT_TRUE(start_supervisor_daemon(options));
  }
  void TearDown() override {
    EXPECT_TRUE(manager->shut_down());
    EXPECT_FALSE(fs::exists(layout.run / "supervisor.sock"));
    EXPECT_FALSE(fs::exists(layout.run / "supervisor.lock"));
    if (!options.cgroup_root.empty()) {
      EXPECT_FALSE(fs::exists(options.cgroup_root));
    }
  }
  virtual bool use_cgroup() const { return true; }

  ServiceSpec service(const std::string& role) const {
    ServiceSpec spec;
    spec.name = role;
    spec.description = "test";
    spec.argv = {fs::read_symlink("/proc/self/exe").string()};
    spec.environment = {"DSTACK_TEST_ROLE=" + role, "DSTACK_TEST_FILE=" + trace(role)};
    spec.restart_delay = 10ms;
    spec.start_timeout = 3s;
    spec.stop_timeout = 3s;
    return spec;
  }
  std::string trace(const std::string& role) const { return (dir / (role + ".trace")).string(); }
  std::vector<std::string> trace_lines(const std::string& role) const {
    std::ifstream in(trace(role));
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
      lines.push_back(line);
    }
    return lines;
  }
  ServiceStatus status(const std::string& name) { return manager->status(name).value_or(ServiceStatus{}); }

  test::TempDir dir;
  Layout layout;
  std::string instance;
  SupervisorOptions options;
  ServiceManagerOptions manager_options;
  std::unique_ptr<ServiceManager> manager;
};

inline bool alive(pid_t pid) {
  return base::process_start_time(pid).has_value();
}

}  // namespace dstack::host
