// One host for the end-to-end tests: a prefix with an install in it, driven through the real programs.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/process.h"
#include "base/result.h"

namespace dstack::e2e {

// Everything lives under $DSTACK_E2E_DIR (set by ctest), so that tests of several processes share one
// install.
struct Lab {
  std::filesystem::path directory;  // of this test run
  std::filesystem::path prefix;     // the install
  std::filesystem::path programs;   // build/bin
  std::filesystem::path source;     // the checkout

  static Lab open();

  std::filesystem::path state() const { return prefix / "var/lib/dstack"; }
  std::filesystem::path config() const { return prefix / "etc/dstack"; }

  // Runs build/bin/<argv[0]> with --prefix added; output is echoed to the test log.
  base::Output run(std::vector<std::string> argv,
                   std::chrono::seconds limit = std::chrono::seconds(300)) const;
};

struct HttpAnswer {
  int status = 0;  // 0 = no answer
  std::string body;
};
// GET http://127.0.0.1:<port>/. QEMU's user-mode network accepts before the guest listens and then may be
// silent for seconds, so a poller wants a short limit.
HttpAnswer get(std::uint16_t port, std::chrono::milliseconds limit = std::chrono::seconds(10));

// A TCP port below 20000 on 127.0.0.1 that was free a moment ago.
std::uint16_t free_port();

// All regular files, directories and links below `root`, one line each; and all processes whose command line
// names `needle`.
std::vector<std::string> tree(const std::filesystem::path& root);
std::vector<std::string> processes_naming(const std::string& needle);

}  // namespace dstack::e2e
