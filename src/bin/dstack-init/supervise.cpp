#include "supervise.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "base/format.h"
#include "base/fs.h"
#include "late_modules.h"

namespace dstack::init {

using base::Code;
using base::fail_errno;
using base::format;
using base::Result;
using Clock = std::chrono::steady_clock;

namespace {

constexpr const char* k_guest = "/usr/bin/dstack-guest";
// dstack-guest stops the containers in this time; docker-compose gives each ten seconds.
constexpr auto k_guest_stop = std::chrono::seconds(30);
constexpr auto k_others_stop = std::chrono::seconds(5);

sigset_t handled() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGCHLD, SIGTERM, SIGINT, SIGUSR2}) {
    sigaddset(&set, number);
  }
  return set;
}

void print(const std::string& text) {
  std::fprintf(stderr, "dstack-init: %s\n", text.c_str());
}

// A cgroup of its own: podman started from the root cgroup would first try to move every process out of it.
void enter_cgroup() {
  ::mkdir("/sys/fs/cgroup/dstack", 0755);
  if (const int fd = ::open("/sys/fs/cgroup/dstack/cgroup.procs", O_WRONLY | O_CLOEXEC); fd >= 0) {
    [[maybe_unused]] const auto written = ::write(fd, "0", 1);
    ::close(fd);
  }
}

Result<pid_t> start_guest() {
  const pid_t pid = ::fork();
  if (pid < 0) {
    return fail_errno(Code::process_failed, "cannot start dstack-guest", errno);
  }
  if (pid > 0) {
    return pid;
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setsid();
  enter_cgroup();
  if (const int null = ::open("/dev/null", O_RDONLY); null > 0) {
    ::dup2(null, 0);
    ::close(null);
  }
  const char* const argv[] = {k_guest, "boot", nullptr};
  const char* const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
                                     nullptr};
  ::execve(k_guest, const_cast<char* const*>(argv), const_cast<char* const*>(environment));
  print(format("cannot run {}: error {}", k_guest, errno));
  ::_exit(127);
}

struct Reaped {
  bool guest_ended = false;
  int guest_status = 0;
  bool children_left = true;
};

Reaped reap(pid_t guest) {
  Reaped result;
  while (true) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid > 0) {
      if (pid == guest) {
        result.guest_ended = true;
        result.guest_status = status;
      }
      continue;
    }
    if (pid < 0 && errno == EINTR) {
      continue;
    }
    result.children_left = pid == 0;
    return result;
  }
}

// One of the handled signals, or 0 at the deadline.
int wait_signal(const sigset_t& set, Clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      return 0;
    }
    const timespec time{static_cast<time_t>(left.count() / 1'000'000'000),
                        static_cast<long>(left.count() % 1'000'000'000)};
    const int number = ::sigtimedwait(&set, nullptr, &time);
    if (number > 0) {
      return number;
    }
    if (errno == EAGAIN) {
      return 0;
    }
  }
}

void report_end(int status) {
  if (WIFSIGNALED(status)) {
    print(format("dstack-guest was ended by signal {}", WTERMSIG(status)));
  } else if (WEXITSTATUS(status) != 0) {
    print(format("dstack-guest ended with exit code {}", WEXITSTATUS(status)));
  }
}

void end_processes(const sigset_t& set) {
  ::kill(-1, SIGTERM);
  const auto deadline = Clock::now() + k_others_stop;
  while (reap(-1).children_left) {
    if (wait_signal(set, deadline) == 0) {
      ::kill(-1, SIGKILL);
      // Killed processes are gone in no time; one stuck in the kernel must not keep the machine up.
      const auto last = Clock::now() + std::chrono::seconds(1);
      while (reap(-1).children_left && wait_signal(set, last) != 0) {
      }
      return;
    }
  }
}

// Mount points, the newest first.
std::vector<std::string> mount_points() {
  std::vector<std::string> points;
  const auto text = base::read_file("/proc/self/mounts");
  if (!text) {
    return points;
  }
  std::string_view rest = *text;
  while (!rest.empty()) {
    const auto line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const auto first = line.find(' ');
    const auto second = line.find(' ', first + 1);
    if (first != std::string_view::npos && second != std::string_view::npos) {
      points.emplace_back(line.substr(first + 1, second - first - 1));
    }
  }
  return {points.rbegin(), points.rend()};
}

bool is_kernel_file_system(std::string_view path) {
  return path == "/" || path == "/dev" || path == "/proc" || path == "/sys" || path.starts_with("/dev/") ||
         path.starts_with("/sys/");
}

}  // namespace

void block_signals() {
  const auto set = handled();
  sigprocmask(SIG_BLOCK, &set, nullptr);
}

Result<Ending> supervise() {
  const auto set = handled();
  DS_TRY(const pid_t guest, start_guest());
  insert_late_modules();
  auto ending = Ending::power_off;
  while (true) {
    int number = 0;
    if (::sigwait(&set, &number) != 0) {
      continue;
    }
    if (number == SIGCHLD) {
      const auto reaped = reap(guest);
      if (!reaped.guest_ended) {
        continue;
      }
      report_end(reaped.guest_status);
      break;
    }
    ending = number == SIGINT ? Ending::reboot : Ending::power_off;
    ::kill(guest, SIGTERM);
    const auto deadline = Clock::now() + k_guest_stop;
    while (!reap(guest).guest_ended && wait_signal(set, deadline) != 0) {
    }
    break;
  }
  end_processes(set);
  return ending;
}

void end_machine(Ending ending) {
  ::sync();
  for (const auto& point : mount_points()) {
    if (!is_kernel_file_system(point)) {
      ::umount2(point.c_str(), 0);
    }
  }
  ::sync();
  ::reboot(ending == Ending::reboot ? RB_AUTOBOOT : RB_POWER_OFF);
  while (true) {
    ::pause();
  }
}

}  // namespace dstack::init
