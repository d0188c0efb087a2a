#include "host/supervised_processes.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::string_view k_mark = "DSTACK_SERVICE_LOG=";
constexpr std::size_t k_max_text = 256 * 1024;

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const auto word = text.substr(0, text.find('\0'));
    out.emplace_back(word);
    text.remove_prefix(std::min(text.size(), word.size() + 1));
  }
  return out;
}

bool same_file(const fs::path& a, const fs::path& b) {
  struct stat one = {};
  struct stat other = {};
  return ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

// One in a container names directories as we do and means others.
bool sees_the_same(const fs::path& process, const fs::path& directory) {
  return same_file(process / "ns/mnt", "/proc/self/ns/mnt") ||
         same_file(process / "root" / directory.relative_path(), directory);
}

bool is_ours(const fs::path& process) {
  struct stat info = {};
  return ::stat(process.c_str(), &info) == 0 && info.st_uid == ::geteuid();
}

// One that has ended keeps its number until its parent asks, but has no text any more.
std::vector<std::string> words_of(const fs::path& file) {
  const auto text = base::read_file(file, k_max_text);
  return text ? split(*text) : std::vector<std::string>();
}

bool supervises(const std::vector<std::string>& command, const Layout& layout) {
  if (command.size() < 4 || command[1] != "supervise") {
    return false;
  }
  const auto flag = std::ranges::find(command, "--run-dir");
  return flag != command.end() && std::next(flag) != command.end() && *std::next(flag) == layout.run.string();
}

// The service that the process belongs to, "" = none of this installation.
std::string service_of(const std::vector<std::string>& environment, const Layout& layout) {
  for (const auto& variable : environment) {
    if (variable.starts_with(k_mark)) {
      const fs::path log(variable.substr(k_mark.size()));
      return log.parent_path() == layout.logs() ? log.stem().string() : "";
    }
  }
  return {};
}

// A number that names this process and no later one.
class Process {
 public:
  explicit Process(pid_t pid) : m_fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}
  void signal(int number) const {
    if (m_fd) {
      ::syscall(SYS_pidfd_send_signal, m_fd.get(), number, nullptr, 0);
    }
  }
  bool ended() const {
    pollfd waiting = {m_fd.get(), POLLIN, 0};
    return !m_fd || ::poll(&waiting, 1, 0) != 0;
  }

 private:
  base::Fd m_fd;
};

using Find = std::function<std::vector<pid_t>()>;

// SIGTERM, and SIGKILL from `kill_at` on, until `find` finds none and those it found have ended. False when
// that takes longer than to `give_up_at`.
bool end_all(const Find& find, Clock::time_point kill_at, Clock::time_point give_up_at,
             const std::function<void()>& tick) {
  std::map<pid_t, Process> open;
  while (true) {
    std::erase_if(open, [](const auto& one) { return one.second.ended(); });
    std::map<pid_t, Process> fresh;
    for (const pid_t pid : find()) {
      if (!open.contains(pid)) {
        fresh.emplace(pid, Process(pid));
      }
    }
    // Opened, then found again: so it is what was found that is open.
    const auto still = fresh.empty() ? std::vector<pid_t>() : find();
    for (auto& [pid, process] : fresh) {
      if (!process.ended() && std::ranges::find(still, pid) != still.end()) {
        process.signal(SIGTERM);
        process.signal(SIGCONT);
        open.emplace(pid, std::move(process));
      }
    }
    if (open.empty()) {
      return true;
    }
    const auto now = Clock::now();
    if (now > give_up_at) {
      return false;
    }
    for (const auto& [pid, process] : open) {
      if (now >= kill_at) {
        process.signal(SIGKILL);
      }
    }
    tick();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

bool SupervisedProcesses::has_service(const std::string& name) const {
  return std::ranges::any_of(services, [&](const Service& service) { return service.name == name; });
}

std::string SupervisedProcesses::text() const {
  std::string out;
  const auto add = [&](const std::string& name, pid_t pid) {
    out += base::format("{}{} (pid {})", out.empty() ? "" : ", ", name, pid);
  };
  for (const pid_t pid : supervisors) {
    add("dstackup supervise", pid);
  }
  for (const auto& service : services) {
    add(service.name, service.pid);
  }
  return out;
}

SupervisedProcesses find_supervised(const Layout& layout) {
  SupervisedProcesses out;
  std::error_code error;
  for (fs::directory_iterator it("/proc", error), end; !error && it != end; it.increment(error)) {
    const auto name = it->path().filename().string();
    pid_t pid = 0;
    const auto [stop, problem] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (problem != std::errc() || stop != name.data() + name.size() || pid == ::getpid() ||
        !is_ours(it->path())) {
      continue;
    }
    if (supervises(words_of(it->path() / "cmdline"), layout)) {
      if (sees_the_same(it->path(), layout.run)) {
        out.supervisors.push_back(pid);
      }
      continue;
    }
    auto service = service_of(words_of(it->path() / "environ"), layout);
    if (!service.empty() && sees_the_same(it->path(), layout.logs())) {
      out.services.push_back({std::move(service), pid});
    }
  }
  return out;
}

std::string service_mark(const fs::path& log_file) {
  return std::string(k_mark) + log_file.string();
}

Result<> end_supervised(const Layout& layout, const std::function<void(std::string_view)>& waiting,
                        const EndLimits& limits) {
  const auto tick = [&](const char* text) {
    return [&waiting, text] {
      if (waiting) {
        waiting(text);
      }
    };
  };
  const auto supervisors = [&] { return find_supervised(layout).supervisors; };
  const auto services = [&] {
    std::vector<pid_t> out;
    for (const auto& service : find_supervised(layout).services) {
      out.push_back(service.pid);
    }
    return out;
  };
  auto kill_at = Clock::now() + limits.supervisor;
  end_all(supervisors, kill_at, kill_at + limits.killed, tick("the supervisor to end"));
  kill_at = Clock::now() + limits.services;
  end_all(services, kill_at, kill_at + limits.killed, tick("the services to end"));
  if (const auto left = find_supervised(layout); !left.empty()) {
    return base::fail(Code::timeout, "these processes did not end: " + left.text(),
                      "they are likely stuck in the kernel; look at them with 'ps', then try again");
  }
  return {};
}

}  // namespace dstack::host
