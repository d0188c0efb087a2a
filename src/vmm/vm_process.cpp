#include "vmm/vm_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/strict_json.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "host/cgroup.h"
#include "vmm/passed_files.h"
#include "vmm/vm_user.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::fail_errno;
using base::Fd;
using base::Result;

namespace {

// The lock's descriptor in the child, kept open for its whole life.
constexpr int k_lock_fd = 3;

std::string boot_id() {
  const auto text = base::read_file("/proc/sys/kernel/random/boot_id", 256);
  return text ? std::string(base::trim(*text)) : std::string();
}

Fd open_pidfd(pid_t pid) {
  return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

Result<Fd> open_log(const fs::path& path) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return fail_errno(Code::vm_start, base::format("cannot write {}", path.native()), errno);
  }
  return fd;
}

struct Running {
  pid_t pid = 0;
  Fd pidfd;
  bool child = false;
};

class RealProcesses : public VmProcesses {
 public:
  explicit RealProcesses(ProcessOptions options)
      : m_cgroup_root(options.launcher ? fs::path() : std::move(options.cgroup_root)),
        m_separate_users(options.separate_users),
        m_launcher(std::move(options.launcher)),
        m_wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  ~RealProcesses() override {
    {
      const std::lock_guard lock(m_mutex);
      m_stop = true;
    }
    wake();
    if (m_thread.joinable()) {
      m_thread.join();
    }
  }

  void on_exit(ExitHandler handler) override {
    const std::lock_guard lock(m_mutex);
    m_handler = std::move(handler);
    if (!m_thread.joinable()) {
      m_thread = std::thread([this] { watch(); });
    }
  }

  Result<ProcessRecord> start(const ProcessSpec& spec) override {
    auto pid = m_launcher ? m_launcher->launch(spec) : spawn_child(spec);
    if (!pid) {
      auto error = std::move(pid).error();
      if (error.code == Code::process_failed) {
        error.code = Code::vm_start;
      }
      return fail(std::move(error));
    }
    // A process that has already ended has no start time; its exit is noticed all the same.
    auto record = describe(*pid, base::process_start_time(*pid).value_or(0));
    add(spec.vm_id, {*pid, open_pidfd(*pid), /*child=*/m_launcher == nullptr});
    return record;
  }

  bool adopt(const std::string& vm_id, const ProcessRecord& record) override {
    if (record.pid <= 1 || record.boot_id != boot_id()) {
      return false;
    }
    // The descriptor first: from then on the pid cannot become another process behind our back.
    Fd pidfd = open_pidfd(record.pid);
    if (!pidfd || base::process_start_time(record.pid) != record.start_time) {
      return false;
    }
    add(vm_id, {record.pid, std::move(pidfd), /*child=*/false});
    return true;
  }

  std::optional<ProcessRecord> find_unrecorded(const std::string& vm_id, const fs::path& lock_file) override {
    const auto pid = m_launcher ? m_launcher->find(vm_id) : find_lock_holder(vm_id, lock_file);
    const auto started = pid ? base::process_start_time(*pid) : std::nullopt;
    return started ? std::optional(describe(*pid, *started)) : std::nullopt;
  }

  void kill(const std::string& vm_id) override {
    if (m_launcher) {
      // The launcher may need a while, and may be allowed what this process is not.
      if (const auto killed = m_launcher->kill(vm_id); !killed) {
        base::log_warn(killed.error().what());
      }
    }
    const std::lock_guard lock(m_mutex);
    const auto it = m_running.find(vm_id);
    if (it == m_running.end()) {
      return;
    }
    if (!m_cgroup_root.empty()) {
      cgroup_of(vm_id).signal_kill();
    }
    if (it->second.pidfd) {
      ::syscall(SYS_pidfd_send_signal, it->second.pidfd.get(), SIGKILL, nullptr, 0);
    } else if (it->second.child) {
      ::kill(it->second.pid, SIGKILL);
    }
  }

 private:
  Result<pid_t> spawn_child(const ProcessSpec& spec) const {
    DS_TRY(auto lock, open_log(spec.lock_file));
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      return fail(Code::locked, base::format("another process runs VM {}", spec.vm_id),
                  "stop that process, or wait until it ends");
    }
    DS_TRY(const auto out, open_log(spec.stdout_log));
    DS_TRY(const auto err, open_log(spec.stderr_log));
    base::Spawn what;
    what.argv = spec.argv;
    what.environment = {std::string("PATH=") + base::k_tool_path, "LANG=C.UTF-8"};
    what.directory = spec.directory.native();
    what.stdout_fd = out.get();
    what.stderr_fd = err.get();
    what.keep_fds = {{lock.get(), k_lock_fd}};
    DS_TRY(const auto files, open_files(spec.files, m_separate_users));
    for (const auto& [fd, number] : files) {
      what.keep_fds.emplace_back(fd.get(), number);
    }
    what.new_session = true;
    if (m_separate_users) {
      DS_TRY(what.identity, pick_vm_user(spec.vm_id, spec.kvm));
    }
    if (!m_cgroup_root.empty()) {
      DS_CHECK(make_cgroup(spec));
      what.cgroup = cgroup_of(spec.vm_id).path();
    }
    return base::spawn(what);
  }

  host::Cgroup cgroup_of(const std::string& vm_id) const {
    return host::Cgroup((m_cgroup_root / vm_id).native());
  }

  Result<> make_cgroup(const ProcessSpec& spec) const {
    DS_CHECK(host::Cgroup(m_cgroup_root.native()).create());
    const auto cgroup = cgroup_of(spec.vm_id);
    DS_CHECK(cgroup.create());
    host::CgroupLimits limits;
    limits.memory_bytes = spec.limits.memory_bytes;
    limits.tasks = spec.limits.tasks;
    limits.cpu_percent = spec.limits.cpu_percent;
    for (const auto& missing : cgroup.limit(limits)) {
      base::log_warn(
          base::format("VM {} runs without a limit of {}: this host does not let its cgroups have one",
                       spec.vm_id, missing));
    }
    return {};
  }

  static ProcessRecord describe(pid_t pid, unsigned long long start_time) {
    ProcessRecord record;
    record.pid = pid;
    record.start_time = start_time;
    record.boot_id = boot_id();
    return record;
  }

  // Without CAP_SYS_PTRACE the open files of other users' processes cannot be seen, their arguments can.
  static bool is_named(const fs::path& process, const std::string& vm_id) {
    const auto arguments = base::read_file(process / "cmdline", 1024 * 1024).value_or("");
    return arguments.find(std::string("\0-name\0", 7) + vm_id + '\0') != std::string::npos;
  }

  static std::optional<pid_t> find_lock_holder(const std::string& vm_id, const fs::path& lock_file) {
    const Fd lock(::open(lock_file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!lock || ::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) {
      return std::nullopt;
    }
    std::error_code error;
    const auto wanted = fs::weakly_canonical(lock_file, error).native();
    std::optional<pid_t> named;
    for (fs::directory_iterator it("/proc", error); !error && it != fs::directory_iterator();
         it.increment(error)) {
      const auto name = it->path().filename().native();
      pid_t pid = 0;
      const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
      if (bad != std::errc{} || end != name.data() + name.size() || pid == ::getpid()) {
        continue;
      }
      std::error_code ignored;
      if (fs::read_symlink(it->path() / "fd" / std::to_string(k_lock_fd), ignored) == wanted) {
        return pid;
      }
      if (is_named(it->path(), vm_id)) {
        named = pid;
      }
    }
    return named;
  }

  void add(const std::string& vm_id, Running running) {
    {
      const std::lock_guard lock(m_mutex);
      m_running[vm_id] = std::move(running);
    }
    wake();
  }

  void wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto n = ::write(m_wake.get(), &one, sizeof one);
  }

  void watch() {
    while (true) {
      std::vector<pollfd> fds{{m_wake.get(), POLLIN, 0}};
      {
        const std::lock_guard lock(m_mutex);
        if (m_stop) {
          return;
        }
        for (const auto& [id, running] : m_running) {
          if (running.pidfd) {
            fds.push_back({running.pidfd.get(), POLLIN, 0});
          }
        }
      }
      ::poll(fds.data(), fds.size(), 1000);
      std::uint64_t drained = 0;
      [[maybe_unused]] const auto n = ::read(m_wake.get(), &drained, sizeof drained);
      collect();
    }
  }

  static bool ended(Running& running, std::optional<int>& code) {
    if (running.child) {
      int status = 0;
      if (::waitpid(running.pid, &status, WNOHANG) != running.pid) {
        return false;
      }
      code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      return true;
    }
    pollfd fd{running.pidfd.get(), POLLIN, 0};
    return ::poll(&fd, 1, 0) > 0;
  }

  void collect() {
    struct Ended {
      std::string id;
      pid_t pid;
      std::optional<int> code;
    };
    std::vector<Ended> list;
    ExitHandler handler;
    {
      const std::lock_guard lock(m_mutex);
      handler = m_handler;
      for (auto it = m_running.begin(); it != m_running.end();) {
        std::optional<int> code;
        if (ended(it->second, code)) {
          list.push_back({it->first, it->second.pid, code});
          it = m_running.erase(it);
        } else {
          ++it;
        }
      }
    }
    for (const auto& item : list) {
      if (!m_cgroup_root.empty()) {
        const auto cgroup = cgroup_of(item.id);
        auto removed = cgroup.exists() ? cgroup.kill() : Result<>();
        if (removed) {
          removed = cgroup.remove();
        }
        if (!removed) {
          base::log_warn(removed.error().what());
        }
      }
      if (handler) {
        handler(item.id, item.pid, item.code);
      }
    }
  }

  fs::path m_cgroup_root;
  bool m_separate_users;
  std::unique_ptr<VmLauncher> m_launcher;
  Fd m_wake;
  std::mutex m_mutex;
  std::map<std::string, Running> m_running;
  ExitHandler m_handler;
  bool m_stop = false;
  std::thread m_thread;
};

}  // namespace

std::string process_record_to_json(const ProcessRecord& record) {
  nlohmann::ordered_json out;
  out["pid"] = record.pid;
  out["start_time"] = record.start_time;
  out["boot_id"] = record.boot_id;
  out["started_at_ms"] = record.started_at_ms;
  out["agent_port"] = record.agent_port;
  out["accelerator"] = record.accelerator;
  return out.dump();
}

Result<ProcessRecord> parse_process_record(std::string_view text) {
  DS_TRY(const auto json, app::parse_json_strict(text, {.max_bytes = 4096, .max_depth = 4}));
  ProcessRecord record;
  try {
    record.pid = json.at("pid").get<pid_t>();
    record.start_time = json.at("start_time").get<unsigned long long>();
    record.boot_id = json.at("boot_id").get<std::string>();
    record.started_at_ms = json.at("started_at_ms").get<std::int64_t>();
    record.agent_port = json.at("agent_port").get<std::uint16_t>();
    record.accelerator = json.at("accelerator").get<std::string>();
  } catch (const nlohmann::json::exception& error) {
    return fail(base::Error{Code::vm_record, "the record of a VM's process is malformed", error.what(), {}});
  }
  return record;
}

std::unique_ptr<VmProcesses> make_vm_processes(ProcessOptions options) {
  return std::make_unique<RealProcesses>(std::move(options));
}

}  // namespace dstack::vmm
