#include "host/supervised_service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "host/supervised_processes.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::chrono::milliseconds k_longest_delay{30'000};

std::string random_name() {
  std::uint8_t raw[12] = {};
  [[maybe_unused]] const auto n = ::getrandom(raw, sizeof raw, 0);
  return base::to_hex(raw);
}

// An abstract datagram socket: no file to clean up, and gone with the supervisor.
Result<base::Fd> make_notify_socket(std::string& name) {
  base::Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) {
    return base::fail_errno(Code::service_manager, "cannot make a notification socket", errno);
  }
  name = "@dstack-notify-" + random_name();
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.c_str() + 1, name.size() - 1);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return base::fail_errno(Code::service_manager, "cannot bind a notification socket", errno);
  }
  return fd;
}

std::string describe_exit(int status) {
  if (WIFSIGNALED(status)) {
    return base::format("killed by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
  }
  return base::format("exit code {}", WEXITSTATUS(status));
}

// Processes that carry the cookie in their environment.
std::vector<pid_t> find_by_cookie(const std::string& cookie) {
  std::vector<pid_t> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const auto name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) {
      continue;
    }
    const auto environment = base::read_file(entry.path() / "environ");
    if (environment && environment->find(cookie) != std::string::npos) {
      out.push_back(static_cast<pid_t>(std::stol(name)));
    }
  }
  return out;
}

bool same_definition(const ServiceSpec& a, const ServiceSpec& b) {
  return a.argv == b.argv && a.environment == b.environment && a.directory == b.directory &&
         a.children_outlive == b.children_outlive && a.memory_max == b.memory_max &&
         a.tasks_max == b.tasks_max && a.open_files == b.open_files;
}

}  // namespace

std::vector<std::string> tail_lines(const std::filesystem::path& file, std::size_t count) {
  const base::Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::vector<std::string> lines;
  if (!fd || count == 0) {
    return lines;
  }
  constexpr off_t k_window = 256 * 1024;
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  const off_t from = std::max<off_t>(0, size - k_window);
  std::string text(static_cast<std::size_t>(std::max<off_t>(0, size - from)), '\0');
  const ssize_t n = ::pread(fd.get(), text.data(), text.size(), from);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, n)));
  std::size_t end = text.size();
  if (end > 0 && text[end - 1] == '\n') {
    --end;
  }
  while (lines.size() < count && end > 0) {
    const auto before = text.rfind('\n', end - 1);
    const auto begin = before == std::string::npos ? 0 : before + 1;
    lines.push_back(base::escape_control(std::string_view(text).substr(begin, end - begin)));
    if (begin == 0) {
      break;
    }
    end = begin - 1;
  }
  std::ranges::reverse(lines);
  return lines;
}

SupervisedService::SupervisedService(ServiceSpec spec, std::filesystem::path log_file, std::string cgroup)
    : m_spec(std::move(spec)),
      m_log_file(std::move(log_file)),
      m_cgroup(cgroup),
      m_has_cgroup(!cgroup.empty()) {
  enter(ServiceState::stopped);
}

SupervisedService::SupervisedService(ServiceMemory memory, std::filesystem::path log_file, std::string cgroup)
    : m_spec(std::move(memory.spec)),
      m_log_file(std::move(log_file)),
      m_cgroup(cgroup),
      m_has_cgroup(!cgroup.empty()),
      m_cookie(std::move(memory.cookie)),
      m_notify(memory.notify_fd),
      m_pid(memory.pid),
      m_state(memory.state),
      m_since_unix(memory.since_unix),
      m_entered(memory.entered),
      m_deadline(memory.deadline),
      m_next(std::move(memory.next)),
      m_commanded(memory.commanded),
      m_timed_out(memory.timed_out),
      m_text(std::move(memory.text)),
      m_error_number(memory.error_number),
      m_result(std::move(memory.result)),
      m_restarts(memory.restarts),
      m_delay(memory.delay),
      m_starts(memory.starts.begin(), memory.starts.end()) {}

ServiceMemory SupervisedService::memory() const {
  return {.spec = m_spec,
          .cookie = m_cookie,
          .notify_fd = m_notify.get(),
          .pid = m_pid,
          .state = m_state,
          .since_unix = m_since_unix,
          .entered = m_entered,
          .deadline = m_deadline,
          .next = m_next,
          .commanded = m_commanded,
          .timed_out = m_timed_out,
          .text = m_text,
          .error_number = m_error_number,
          .result = m_result,
          .restarts = m_restarts,
          .delay = m_delay,
          .starts = {m_starts.begin(), m_starts.end()}};
}

void SupervisedService::enter(ServiceState state) {
  m_state = state;
  m_entered = Clock::now();
  m_since_unix =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  m_deadline.reset();
}

void SupervisedService::start(ServiceSpec spec, bool force) {
  const bool up = m_state == ServiceState::active || m_state == ServiceState::starting;
  if (up && !force && same_definition(spec, m_spec)) {
    return;
  }
  m_delay = std::chrono::milliseconds(0);
  m_starts.clear();
  m_restarts = 0;
  m_next = std::move(spec);
  if (up) {
    auto next = std::move(m_next);
    stop();
    m_next = std::move(next);
  } else if (m_state != ServiceState::stopping) {
    m_spec = std::move(*m_next);
    m_next.reset();
    m_commanded = true;
    launch();
  }
}

void SupervisedService::stop() {
  m_next.reset();
  if (m_pid == 0) {
    clear_remains();
    enter(ServiceState::stopped);
    return;
  }
  if (m_state != ServiceState::stopping) {
    kill_main(SIGTERM);
    kill_main(SIGCONT);  // one that was stopped could not hear it
    m_timed_out = false;
    enter(ServiceState::stopping);
    m_deadline = Clock::now() + m_spec.stop_timeout;
  }
}

void SupervisedService::launch() {
  m_text.clear();
  m_result.clear();
  m_error_number = 0;
  m_timed_out = false;
  const auto give_up = [this](std::string why) {
    m_result = std::move(why);
    m_notify.reset();
    enter(ServiceState::failed);
  };
  clear_remains();
  std::string notify_name;
  auto notify = make_notify_socket(notify_name);
  if (!notify) {
    return give_up(notify.error().what());
  }
  m_notify = std::move(*notify);
  if (m_has_cgroup) {
    if (auto made = m_cgroup.create(); !made) {
      return give_up(made.error().what());
    }
    for (const auto& controller :
         m_cgroup.limit({.memory_bytes = m_spec.memory_max, .tasks = m_spec.tasks_max})) {
      base::log_info(base::format("{} runs without a limit of {}: this cgroup has no such controller",
                                  m_spec.name, controller));
    }
  }
  const base::Fd log(
      ::open(m_log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!log) {
    return give_up(base::format("cannot open the log {}: {}", m_log_file.string(), std::strerror(errno)));
  }
  m_cookie = "DSTACK_SUPERVISED=" + random_name();
  base::Spawn what;
  what.argv = m_spec.argv;
  what.environment = {std::string("PATH=") + base::k_tool_path, "LANG=C.UTF-8", "HOME=/root",
                      "NOTIFY_SOCKET=" + notify_name,           m_cookie,       service_mark(m_log_file)};
  what.environment.insert(what.environment.end(), m_spec.environment.begin(), m_spec.environment.end());
  what.directory = m_spec.directory;
  what.stdout_fd = log.get();
  what.stderr_fd = log.get();
  what.new_session = true;
  what.cgroup = m_has_cgroup ? m_cgroup.path() : "";
  // A supervisor that is killed takes its services along, so that a later one does not find ports taken.
  what.parent_death_signal = SIGTERM;
  what.open_files = m_spec.open_files;
  const auto pid = base::spawn(what);
  if (!pid) {
    return give_up(pid.error().what());
  }
  m_pid = *pid;
  m_starts.push_back(Clock::now());
  enter(ServiceState::starting);
  m_deadline = Clock::now() + m_spec.start_timeout;
}

void SupervisedService::kill_main(int signal) const {
  if (m_pid > 0 && ::kill(-m_pid, signal) != 0) {
    ::kill(m_pid, signal);
  }
}

void SupervisedService::clear_remains() const {
  if (m_spec.children_outlive) {
    return;
  }
  if (m_has_cgroup) {
    if (m_cgroup.exists() && m_cgroup.populated()) {
      if (auto killed = m_cgroup.kill(); !killed) {
        base::log_error(killed.error().what());
      }
    }
    return;
  }
  if (m_cookie.empty()) {
    return;
  }
  // A process may fork while the list is read, so until a pass finds none.
  for (int pass = 0; pass < 20; ++pass) {
    const auto strays = find_by_cookie(m_cookie);
    if (strays.empty()) {
      return;
    }
    for (const pid_t pid : strays) {
      ::kill(pid, SIGKILL);
    }
    ::usleep(5000);
  }
}

bool SupervisedService::too_many_starts() {
  const auto oldest = Clock::now() - m_spec.start_limit_interval;
  while (!m_starts.empty() && m_starts.front() < oldest) {
    m_starts.pop_front();
  }
  return static_cast<int>(m_starts.size()) >= m_spec.start_limit;
}

void SupervisedService::on_exit(int wait_status) {
  drain_notify();
  m_notify.reset();
  m_pid = 0;
  const auto before = m_state;
  if (before != ServiceState::stopping || !m_timed_out) {
    m_result = describe_exit(wait_status);
  }
  if (m_timed_out && before == ServiceState::starting) {
    m_result = base::format("not ready within {} ms", m_spec.start_timeout.count());
  }
  clear_remains();
  if (before == ServiceState::stopping) {
    enter(ServiceState::stopped);
    if (m_next) {
      m_spec = std::move(*m_next);
      m_next.reset();
      m_commanded = true;
      launch();
    }
    return;
  }
  if (before == ServiceState::starting && m_commanded) {
    enter(ServiceState::failed);
    return;
  }
  base::log_warn(base::format("{} ended: {}", m_spec.name, m_result));
  if (before == ServiceState::active && Clock::now() - m_entered > m_spec.start_limit_interval) {
    m_delay = std::chrono::milliseconds(0);
  }
  if (too_many_starts()) {
    m_result += base::format("; {} starts within {} s, not tried again", m_spec.start_limit,
                             m_spec.start_limit_interval.count() / 1000);
    enter(ServiceState::failed);
    return;
  }
  m_delay = m_delay.count() == 0 ? m_spec.restart_delay : std::min(m_delay * 2, k_longest_delay);
  enter(ServiceState::waiting);
  m_deadline = Clock::now() + m_delay;
}

void SupervisedService::drain_notify() {
  if (!m_notify) {
    return;
  }
  while (true) {
    char data[4096];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
    iovec vector = {data, sizeof data};
    msghdr message = {};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t n = ::recvmsg(m_notify.get(), &message, MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EINTR) {
        continue;
      }
      return;
    }
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    ucred who = {};
    if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS) {
      std::memcpy(&who, CMSG_DATA(header), sizeof who);
    }
    if (who.pid != m_pid) {
      continue;  // only the main process speaks for the service
    }
    std::string_view text(data, static_cast<std::size_t>(n));
    while (!text.empty()) {
      const auto line = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(text.size(), line.size() + 1));
      if (line == "READY=1" && m_state == ServiceState::starting) {
        if (!m_commanded) {
          ++m_restarts;
        }
        m_commanded = false;
        enter(ServiceState::active);
      } else if (line.starts_with("STATUS=")) {
        m_text = base::escape_control(line.substr(7));
      } else if (line.starts_with("ERRNO=")) {
        m_error_number = static_cast<int>(std::strtol(std::string(line.substr(6)).c_str(), nullptr, 10));
      }
    }
  }
}

void SupervisedService::on_notify() {
  drain_notify();
}

void SupervisedService::on_time() {
  if (!m_deadline || Clock::now() < *m_deadline) {
    return;
  }
  switch (m_state) {
    case ServiceState::starting:
    case ServiceState::stopping:
      m_timed_out = true;
      if (m_state == ServiceState::stopping) {
        m_result = base::format("killed, it did not stop within {} ms", m_spec.stop_timeout.count());
      }
      kill_main(SIGKILL);
      m_deadline.reset();
      break;
    case ServiceState::waiting:
      m_deadline.reset();
      launch();
      break;
    default:
      m_deadline.reset();
  }
}

void SupervisedService::rotate_log(std::size_t limit) const {
  struct stat info = {};
  if (::stat(m_log_file.c_str(), &info) != 0 || static_cast<std::size_t>(info.st_size) <= limit) {
    return;
  }
  // The service holds the file open for appending, so it is copied and emptied in place, not renamed.
  std::error_code error;
  std::filesystem::copy_file(m_log_file, m_log_file.string() + ".1",
                             std::filesystem::copy_options::overwrite_existing, error);
  if (error || ::truncate(m_log_file.c_str(), 0) != 0) {
    base::log_warn("cannot rotate " + m_log_file.string());
  }
}

bool SupervisedService::settled() const {
  return !m_next && m_state != ServiceState::starting && m_state != ServiceState::stopping;
}

ServiceStatus SupervisedService::status() const {
  return {m_spec.name, m_state, m_pid, m_text, m_error_number, m_result, m_restarts, m_since_unix};
}

Result<> SupervisedService::start_result() const {
  if (m_state == ServiceState::active) {
    return {};
  }
  std::string cause = m_text.empty() ? m_result : m_text + " (" + m_result + ")";
  for (const auto& line : tail_lines(m_log_file, 5)) {
    cause += "\n    " + line;
  }
  return base::fail(base::Error{Code::service_failed, "the service " + m_spec.name + " did not start",
                                std::move(cause), "the whole log is " + m_log_file.string()});
}

}  // namespace dstack::host
