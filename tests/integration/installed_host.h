// One installation inside a sandbox, driven through the real programs, for the tests of install and destroy.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/process.h"
#include "host/layout.h"
#include "host/state.h"
#include "integration/host_sandbox.h"
#include "integration/strace_points.h"

namespace dstack::test {

class InstalledHost {
 public:
  // Without a prefix: the system's directories. `flags` go with each install.
  explicit InstalledHost(std::optional<std::string> prefix = {}, std::vector<std::string> flags = {});

  std::vector<std::string> install(std::vector<std::string> more = {}) const;
  std::vector<std::string> destroy(std::vector<std::string> more = {"--purge"}) const;
  base::Output run(const std::vector<std::string>& argv) const;
  const host::Layout& layout() const { return m_layout; }

  // What the installation recorded of itself; there must be one.
  host::InstallState state() const;

  // Empty when an installation is complete: another install finds nothing to do and both services answer.
  std::string not_converged() const;
  // Installs again from whatever there is, and looks; empty when all is well.
  std::string go_on() const;
  // destroy --purge from whatever there is; empty when nothing is left of it.
  std::string take_away() const;
  // What is there beside the clean state; empty when nothing is.
  std::string left_behind() const { return difference(m_clean, host_snapshot(extra())); }
  // Takes the clean state, which take_away() compares with.
  void remember_clean() { m_clean = host_snapshot(extra()); }
  // Ends and removes everything without dstackup, so that one test's failure is not the next one's.
  void wipe() const;
  // Token and seed: what must survive.
  std::string identity() const;
  void register_app() const;
  bool has_app() const;

 private:
  std::vector<std::filesystem::path> extra() const;
  std::vector<std::string> with_place(std::vector<std::string> argv) const;

  std::optional<std::string> m_prefix;
  std::vector<std::string> m_flags;
  host::Layout m_layout;
  std::set<std::string> m_clean;
};

// For SetUp(): skips where there is no sandbox.
#define DSTACK_NEEDS_SANDBOX()                                                \
  if (!::dstack::test::sandbox_problem().empty()) {                           \
    GTEST_SKIP() << "no sandbox here: " << ::dstack::test::sandbox_problem(); \
  }

// A test with a clean host of its own in the sandbox, which is clean again afterwards.
class OnInstalledHost : public testing::Test {
 protected:
  void SetUp() override {
    DSTACK_NEEDS_SANDBOX();
    host.remember_clean();
  }
  void TearDown() override {
    if (sandbox_problem().empty()) {
      host.wipe();
    }
  }

  InstalledHost host;
};

}  // namespace dstack::test
