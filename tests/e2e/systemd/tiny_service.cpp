#include "e2e/systemd/tiny_service.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/fd.h"
#include "base/fs.h"
#include "base/notify.h"
#include "base/process.h"
#include "host/transient_unit.h"

namespace dstack::e2e {

namespace {

[[noreturn]] void sleep_for_good() {
  while (true) {
    ::pause();
  }
}

// argv, the working directory, $ODD and the capabilities that are left.
void write_down(const std::string& file, const std::vector<std::string>& arguments) {
  std::ofstream out(file);
  for (const auto& word : arguments) {
    out << "arg=" << word << "\n";
  }
  const char* odd = std::getenv("ODD");
  out << "cwd=" << std::filesystem::current_path().string() << "\n";
  out << "odd=" << (odd != nullptr ? odd : "") << "\n";
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("CapEff") || line.starts_with("NoNewPrivs") || line.starts_with("Seccomp:") ||
        line.starts_with("Uid")) {
      out << line << "\n";
    }
  }
}

// Who this is, what it was given open, and which of these paths it gets at.
void inspect(const std::vector<std::string>& paths) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Cap") || line.starts_with("NoNewPrivs") || line.starts_with("Seccomp:") ||
        line.starts_with("Uid")) {
      std::printf("%s\n", line.c_str());
    }
  }
  char text[64] = {};
  const auto size = ::pread(100, text, sizeof text - 1, 0);
  std::printf("given=%s\n", size < 0 ? std::strerror(errno) : text);
  for (const auto& path : paths) {
    const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::printf("%s: %s\n", path.c_str(), fd ? "readable" : std::strerror(errno));
  }
  std::fflush(stdout);
}

[[noreturn]] void relay(const std::string& file) {
  while (true) {
    const auto text = base::read_file(file);
    base::notify_ready("read: " + (text ? *text : text.error().what()));
    ::usleep(100'000);
  }
}

}  // namespace

int tiny_service(const std::vector<std::string>& arguments) {
  const auto& mode = arguments.at(0);
  const std::string file = arguments.size() > 1 ? arguments[1] : "";
  if (mode == "inspects") {
    inspect({arguments.begin() + 1, arguments.end()});
    sleep_for_good();
  }
  if (mode == "reads") {
    relay(file);
  }
  if (!file.empty()) {
    write_down(file, arguments);
  }
  if (mode == "fails") {
    std::fprintf(stderr, "first line of the log\nanother instance is running\n");
    base::notify_failed(base::Error{base::Code::address_in_use, "bind 127.0.0.1:8001 failed", "", ""},
                        EADDRINUSE);
    return 3;
  }
  if (mode == "stubborn") {
    ::signal(SIGTERM, SIG_IGN);
    if (::fork() == 0) {
      ::setsid();
      sleep_for_good();
    }
  }
  // Starts a transient unit as dstack-vmm does, from inside its sandbox.
  if (mode == "launches") {
    host::TransientUnit unit;
    unit.name = "dstack-vm-from-service";
    unit.description = "started by a service";
    unit.own_user = "dstack-t-launched";
    unit.argv = {std::filesystem::read_symlink("/proc/self/exe").string(), "--service", "plain"};
    const auto started = host::start_transient_unit(unit);
    if (!started && started.error().code != base::Code::locked) {
      base::notify_failed(started.error(), EIO);
      return 4;
    }
    // It is found again by its start time.
    const auto running = host::transient_unit_status(unit.name);
    if (!running || !base::process_start_time(running->main_pid)) {
      base::notify_failed(base::Error{base::Code::internal, "its process is not visible", "", ""}, EIO);
      return 5;
    }
  }
  if (mode != "silent" && mode != "plain") {
    base::notify_ready("serving");
  }
  if (mode == "crashes") {
    ::usleep(50'000);
    return 7;
  }
  sleep_for_good();
}

}  // namespace dstack::e2e
