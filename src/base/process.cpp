#include "base/process.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/fs.h"

namespace dstack::base {

namespace {

struct Pipe {
  Fd read;
  Fd write;
};

Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) {
    return fail_errno(Code::process_failed, "cannot make a pipe", errno);
  }
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const auto& s : strings) {
    out.push_back(const_cast<char*>(s.c_str()));
  }
  out.push_back(nullptr);
  return out;
}

// Collects one stream, bounded, and hands complete lines on.
class Collector {
 public:
  Collector(std::size_t limit, const std::function<void(std::string_view)>& on_line)
      : m_limit(limit), m_on_line(on_line) {}

  void add(std::string_view chunk) {
    if (m_text.size() < m_limit) {
      m_text.append(chunk.substr(0, m_limit - m_text.size()));
    }
    if (!m_on_line) {
      return;
    }
    m_line.append(chunk);
    std::size_t end = 0;
    while ((end = m_line.find('\n')) != std::string::npos) {
      m_on_line(std::string_view(m_line).substr(0, end));
      m_line.erase(0, end + 1);
    }
  }
  std::string finish() {
    if (m_on_line && !m_line.empty()) {
      m_on_line(m_line);
    }
    return std::move(m_text);
  }

 private:
  std::size_t m_limit;
  const std::function<void(std::string_view)>& m_on_line;
  std::string m_text;
  std::string m_line;
};

int exit_code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Gives up root for good. The raw calls: glibc's own tell all threads, of which a forked child has none.
bool become(const Identity& who) {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return false;
  }
  // While there still is a capability to do it with; past the last one it fails.
  for (int capability = 0; ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; ++capability) {
  }
  return ::syscall(SYS_setgroups, who.groups.size(), who.groups.data()) == 0 &&
         ::syscall(SYS_setresgid, who.gid, who.gid, who.gid) == 0 &&
         ::syscall(SYS_setresuid, who.uid, who.uid, who.uid) == 0;
}

// In the child, after fork: only async-signal-safe calls from here on.
[[noreturn]] void exec_child(Spawn& what, char** argv, char** environment, int error_fd, int cgroup_fd,
                             pid_t parent) {
  const auto give_up = [&] {
    const int code = errno;
    [[maybe_unused]] const auto n = ::write(error_fd, &code, sizeof code);
    ::_exit(127);
  };
  if (what.new_session) {
    ::setsid();
  } else {
    ::setpgid(0, 0);
  }
  if (what.parent_death_signal != 0) {
    ::prctl(PR_SET_PDEATHSIG, what.parent_death_signal);
    if (::getppid() != parent) {
      ::_exit(127);
    }
  }
  if (cgroup_fd >= 0 && ::write(cgroup_fd, "0", 1) != 1) {
    give_up();
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int s : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGCHLD}) {
    ::signal(s, SIG_DFL);
  }
  const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null_fd < 0 || ::dup2(what.stdin_fd >= 0 ? what.stdin_fd : null_fd, 0) < 0 ||
      (what.stdout_fd >= 0 && ::dup2(what.stdout_fd, 1) < 0) ||
      (what.stderr_fd >= 0 && ::dup2(what.stderr_fd, 2) < 0)) {
    give_up();
  }
  // What is still needed moves out of the way first: a number of the child's may be in use for it here.
  int above = 3;
  for (const auto& [ours, theirs] : what.keep_fds) {
    above = std::max(above, theirs + 1);
  }
  if (error_fd < above) {
    const int moved = ::fcntl(error_fd, F_DUPFD_CLOEXEC, above);
    if (moved < 0) {
      give_up();
    }
    error_fd = moved;
  }
  for (auto& [ours, theirs] : what.keep_fds) {
    if (ours < above && (ours = ::fcntl(ours, F_DUPFD_CLOEXEC, above)) < 0) {
      give_up();
    }
  }
  for (const auto& [ours, theirs] : what.keep_fds) {
    if (::dup2(ours, theirs) < 0) {
      give_up();
    }
  }
  if (!what.directory.empty() && ::chdir(what.directory.c_str()) != 0) {
    give_up();
  }
  if (what.open_files != 0) {
    raise_open_files(what.open_files);
  }
  if (what.identity && !become(*what.identity)) {
    give_up();
  }
  ::execve(argv[0], argv, environment);
  give_up();
  ::_exit(127);
}

}  // namespace

void raise_open_files(std::uint64_t limit) {
  rlimit now = {};
  const rlimit wanted = {limit, limit};
  if (::setrlimit(RLIMIT_NOFILE, &wanted) != 0 && ::getrlimit(RLIMIT_NOFILE, &now) == 0) {
    now.rlim_cur = std::min<rlim_t>(limit, now.rlim_max);
    ::setrlimit(RLIMIT_NOFILE, &now);
  }
}

std::optional<std::string> find_tool(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return ::access(name.c_str(), X_OK) == 0 ? std::optional(name) : std::nullopt;
  }
  std::stringstream directories(k_tool_path);
  std::string directory;
  while (std::getline(directories, directory, ':')) {
    std::string candidate = directory + "/" + name;
    struct stat info = {};
    if (::stat(candidate.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
        ::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
  }
  return std::nullopt;
}

Result<pid_t> spawn(const Spawn& what) {
  if (what.argv.empty()) {
    return fail(Code::internal, "spawn without a program");
  }
  Spawn resolved = what;
  const auto program = find_tool(what.argv[0]);
  if (!program) {
    return fail(Code::process_failed, what.argv[0] + " is not installed",
                "install the Debian package that holds " + what.argv[0]);
  }
  resolved.argv[0] = *program;
  auto argv = pointers(resolved.argv);
  auto environment = pointers(resolved.environment);
  Fd cgroup;
  if (!what.cgroup.empty()) {
    cgroup = Fd(::open((what.cgroup + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    if (!cgroup) {
      return fail_errno(Code::process_failed, "cannot enter the cgroup " + what.cgroup, errno);
    }
  }
  DS_TRY(auto error_pipe, make_pipe());
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return fail_errno(Code::process_failed, "cannot start " + what.argv[0], errno);
  }
  if (pid == 0) {
    exec_child(resolved, argv.data(), environment.data(), error_pipe.write.get(), cgroup ? cgroup.get() : -1,
               parent);
  }
  error_pipe.write.reset();
  int child_errno = 0;
  ssize_t n = 0;
  do {
    n = ::read(error_pipe.read.get(), &child_errno, sizeof child_errno);
  } while (n < 0 && errno == EINTR);
  if (n == sizeof child_errno) {
    ::waitpid(pid, nullptr, 0);
    return fail_errno(Code::process_failed, "cannot start " + what.argv[0], child_errno);
  }
  return pid;
}

Result<Output> run(const Command& command) {
  DS_TRY(auto in, make_pipe());
  DS_TRY(auto out, make_pipe());
  DS_TRY(auto err, make_pipe());
  Spawn what;
  what.argv = command.argv;
  what.environment = {std::string("PATH=") + k_tool_path, "LANG=C.UTF-8", "HOME=/root"};
  what.environment.insert(what.environment.end(), command.environment.begin(), command.environment.end());
  what.directory = command.directory;
  what.identity = command.identity;
  what.stdin_fd = command.input.empty() ? -1 : in.read.get();
  what.stdout_fd = out.write.get();
  what.stderr_fd = err.write.get();
  DS_TRY(const pid_t pid, spawn(what));
  in.read.reset();
  out.write.reset();
  err.write.reset();
  std::string_view pending = command.input;
  if (pending.empty()) {
    in.write.reset();
  } else {
    // A program that does not read its input must not end ours.
    ::signal(SIGPIPE, SIG_IGN);
    ::fcntl(in.write.get(), F_SETFL, O_NONBLOCK);
  }

  Collector stdout_text(command.output_limit, command.on_line);
  Collector stderr_text(command.output_limit, command.on_line);
  const auto deadline = std::chrono::steady_clock::now() + command.timeout;
  bool timed_out = false;
  while (out.read || err.read) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      timed_out = true;
      ::kill(-pid, SIGKILL);
      break;
    }
    std::array<pollfd, 3> fds = {pollfd{out.read.get(), POLLIN, 0}, pollfd{err.read.get(), POLLIN, 0},
                                 pollfd{in.write.get(), POLLOUT, 0}};
    if (::poll(fds.data(), fds.size(), static_cast<int>(std::min<long long>(left.count(), 1000))) < 0 &&
        errno != EINTR) {
      break;
    }
    const auto drain = [](Fd& fd, short events, Collector& into) {
      if (events == 0) {
        return;
      }
      char buffer[16384];
      const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
      if (n > 0) {
        into.add({buffer, static_cast<std::size_t>(n)});
      } else if (n == 0 || errno != EINTR) {
        fd.reset();
      }
    };
    drain(out.read, fds[0].revents, stdout_text);
    drain(err.read, fds[1].revents, stderr_text);
    if (in.write && fds[2].revents != 0) {
      const ssize_t n = ::write(in.write.get(), pending.data(), pending.size());
      if (n > 0) {
        pending.remove_prefix(static_cast<std::size_t>(n));
      }
      if (pending.empty() || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        in.write.reset();
      }
    }
  }
  int status = 0;
  while (true) {
    const pid_t got = ::waitpid(pid, &status, WNOHANG);
    if (got == pid || (got < 0 && errno != EINTR)) {
      break;
    }
    if (!timed_out && std::chrono::steady_clock::now() > deadline) {
      timed_out = true;
      ::kill(-pid, SIGKILL);
    }
    ::usleep(2000);
  }
  if (timed_out) {
    return fail(Code::timeout, command.argv[0] + " did not end within " +
                                   std::to_string(command.timeout.count() / 1000) + " s");
  }
  return Output{exit_code_of(status), stdout_text.finish(), stderr_text.finish()};
}

Result<Output> run_checked(const Command& command) {
  DS_TRY(auto output, run(command));
  if (output.exit_code != 0) {
    const auto& text = trim(output.err).empty() ? output.out : output.err;
    auto tail = trim(text);
    if (tail.size() > 800) {
      tail = tail.substr(tail.size() - 800);
    }
    return fail(Error{Code::process_failed,
                      command.argv[0] + " ended with exit code " + std::to_string(output.exit_code),
                      std::string(tail),
                      {}});
  }
  return output;
}

std::optional<unsigned long long> process_start_time(pid_t pid) {
  const auto text = read_file("/proc/" + std::to_string(pid) + "/stat", 4096);
  if (!text) {
    return std::nullopt;
  }
  // The command name is in parentheses and may hold anything, so count fields after the last one.
  const auto close = text->rfind(')');
  if (close == std::string::npos) {
    return std::nullopt;
  }
  std::istringstream rest(text->substr(close + 2));
  std::string field;
  for (int i = 3; i <= 22; ++i) {
    rest >> field;
    if (i == 3 && field == "Z") {
      return std::nullopt;
    }
  }
  return std::strtoull(field.c_str(), nullptr, 10);
}

}  // namespace dstack::base
