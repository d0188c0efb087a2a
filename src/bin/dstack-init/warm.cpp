#include "warm.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <sstream>
#include <string>

#include "base/fd.h"
#include "base/fs.h"
#include "root.h"

namespace dstack::init {

namespace {

constexpr const char* k_modules = "/usr/lib/dstack/modules/list.late";
constexpr const char* k_files = "/usr/lib/dstack/preload";

void read_through(const std::string& path) {
  const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  static std::array<char, 256 * 1024> buffer;
  while (fd && ::read(fd.get(), buffer.data(), buffer.size()) > 0) {
  }
}

}  // namespace

void start_warming() {
  if (::fork() != 0) {
    return;
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  (void)insert_modules(k_modules, /*all_needed=*/false);
  const sched_param parameter{};
  ::sched_setscheduler(0, SCHED_IDLE, &parameter);
  if (const auto list = base::read_file(k_files)) {
    std::istringstream lines(*list);
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with('/')) {
        read_through(line);
      }
    }
  }
  ::_exit(0);
}

}  // namespace dstack::init
