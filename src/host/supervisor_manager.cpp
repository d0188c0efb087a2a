// ServiceManager over the built-in supervisor's control socket.
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <set>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "host/cgroup.h"
#include "host/service_manager.h"
#include "host/supervised_processes.h"
#include "host/supervised_service.h"
#include "host/supervisor.h"
#include "host/supervisor_wire.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

using Verb = SupervisorRequest::Verb;

constexpr std::chrono::seconds k_slack{30};
// It never waits for anything itself, but for a program that may take its place (5 s at most).
constexpr std::chrono::milliseconds k_patience{6'000};
constexpr std::chrono::milliseconds k_known_as_silent{200};
constexpr std::chrono::milliseconds k_sign_of_life{1'000};
constexpr std::chrono::seconds k_longest_stop{150};

using Waiting = std::function<void()>;

// Sockets of supervisors that did not answer, for all managers of this program: it waits for each only once.
class SilentOnes {
 public:
  bool contain(const fs::path& socket) {
    const std::lock_guard lock(m_mutex);
    return m_sockets.contains(socket);
  }
  void set(const fs::path& socket, bool silent) {
    const std::lock_guard lock(m_mutex);
    silent ? (void)m_sockets.insert(socket) : (void)m_sockets.erase(socket);
  }

 private:
  std::mutex m_mutex;
  std::set<fs::path> m_sockets;
};

SilentOnes& silent_ones() {
  static SilentOnes ones;
  return ones;
}

Result<SupervisorReply> exchange(const base::Fd& fd, const SupervisorRequest& request,
                                 std::chrono::milliseconds limit, const Waiting& waiting) {
  const auto line = to_line(request);
  if (::send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return base::fail_errno(Code::service_manager, "cannot talk to the supervisor", errno);
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto deadline = begin + limit;
  std::string input;
  while (input.find('\n') == std::string::npos) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd readable = {fd.get(), POLLIN, 0};
    if (left.count() <= 0) {
      return base::fail(Code::timeout, "the supervisor did not answer in time");
    }
    const int ready = ::poll(&readable, 1, static_cast<int>(std::min<long long>(left.count(), 100)));
    if (ready == 0) {
      if (waiting && std::chrono::steady_clock::now() - begin > k_sign_of_life) {
        waiting();
      }
      continue;
    }
    char buffer[16384];
    const ssize_t n = ready < 0 ? -1 : ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return base::fail(Code::service_manager, "the supervisor closed the connection");
    }
    input.append(buffer, static_cast<std::size_t>(n));
  }
  return parse_reply(std::string_view(input).substr(0, input.find('\n')));
}

class SupervisorManager : public ServiceManager {
 public:
  explicit SupervisorManager(ServiceManagerOptions options) : m_options(std::move(options)) {}

  std::string kind() const override { return "supervisor"; }
  std::string description() const override {
    return systemd_is_running() ? "built-in supervisor" : "built-in supervisor (systemd is not PID 1)";
  }

  Result<> start(const ServiceSpec& spec) override { return bring_up(spec, Verb::start); }
  Result<> restart(const ServiceSpec& spec) override { return bring_up(spec, Verb::restart); }

  Result<> stop(const std::string& name) override { return tell(Verb::stop, name); }

  Result<> remove(const std::string& name) override {
    DS_CHECK(tell(Verb::remove, name));
    DS_CHECK(base::remove_file(log_file(name)));
    return base::remove_file(log_file(name).string() + ".1");
  }

  Result<ServiceStatus> status(const std::string& name) override {
    SupervisorRequest request;
    request.verb = Verb::status;
    request.name = name;
    auto reply = question(request);
    if (!reply && reply.error().code == Code::connect_failed) {
      ServiceStatus none;
      none.name = name;
      none.result = why_unreachable();
      return none;
    }
    DS_TRY(auto answer, std::move(reply));
    if (!answer.ok) {
      return base::fail(std::move(answer.error));
    }
    return std::move(answer.status);
  }

  Result<std::vector<std::string>> logs(const std::string& name, std::size_t lines) override {
    return tail_lines(log_file(name), lines);
  }

  Result<> shut_down() override {
    SupervisorRequest request;
    request.verb = Verb::shut_down;
    const bool told = ping() && ask(request, std::chrono::seconds(60), "the supervisor to end");
    if (!told) {
      DS_CHECK(end_processes());
    }
    // It answers first and ends then; its lock tells when it has.
    for (int i = 0; i < 500; ++i) {
      std::error_code error;
      if (!fs::exists(lock_file(), error)) {
        break;
      }
      auto lock = base::FileLock::try_acquire(lock_file());
      if (lock && *lock) {
        break;
      }
      ::usleep(10'000);
    }
    // Whatever did not hear of it.
    DS_CHECK(end_processes());
    DS_CHECK(base::remove_file(lock_file()));
    DS_CHECK(base::remove_file(m_options.layout.supervisor_socket()));
    DS_TRY(const auto root, supervisor_cgroup_root(m_options.instance));
    const Cgroup cgroup(root);
    if (!cgroup.path().empty() && cgroup.exists()) {
      DS_CHECK(cgroup.kill());
      DS_CHECK(cgroup.remove());
    }
    return {};
  }

 private:
  Result<> bring_up(const ServiceSpec& spec, Verb verb) {
    DS_CHECK(ensure_daemon());
    SupervisorRequest request;
    request.verb = verb;
    request.spec = spec;
    DS_TRY(auto reply,
           ask(request, spec.start_timeout + spec.stop_timeout + k_slack, spec.name + " to be ready"));
    if (!reply.ok) {
      return base::fail(std::move(reply.error));
    }
    return {};
  }

  Result<> tell(Verb verb, const std::string& name) {
    SupervisorRequest request;
    request.verb = verb;
    request.name = name;
    if (ping()) {
      const auto reply = ask(request, k_longest_stop, name + " to stop");
      if (reply && !reply->ok) {
        return base::fail(reply->error);
      }
      if (reply) {
        return {};
      }
    }
    // Nobody who could stop it runs, or can be reached, or answers; so it ends together with them.
    return end_processes();
  }

  Result<SupervisorReply> ask(const SupervisorRequest& request, std::chrono::milliseconds limit,
                              const std::string& what = {}) {
    DS_TRY(const auto fd,
           connect_control_socket(m_options.layout.supervisor_socket(), std::min(limit, k_patience)));
    Waiting waiting;
    if (m_options.waiting && !what.empty()) {
      waiting = [&] { m_options.waiting(what); };
    }
    return exchange(fd, request, limit, waiting);
  }

  // What is answered at once, by one that does not hang.
  Result<SupervisorReply> question(const SupervisorRequest& request) {
    const bool known = silent_ones().contain(m_options.layout.supervisor_socket());
    auto reply = ask(request, known ? k_known_as_silent : k_patience, "an answer of the built-in supervisor");
    const bool silent = !reply && reply.error().code == Code::timeout;
    silent_ones().set(m_options.layout.supervisor_socket(), silent);
    if (!silent) {
      return reply;
    }
    const auto found = find_supervised(m_options.layout).supervisors;
    return base::fail(Code::timeout,
                      base::format("the built-in supervisor{} does not answer",
                                   found.empty() ? std::string() : base::format(" (pid {})", found.front())),
                      "run 'dstackup install' again, which ends it and starts another one; VMs go on");
  }

  Result<> ping() {
    DS_CHECK(question({}));
    return {};
  }

  std::string why_unreachable() const {
    const auto found = find_supervised(m_options.layout);
    if (!found.supervisors.empty()) {
      return base::format("the supervisor (pid {}) runs, but its socket {} is gone",
                          found.supervisors.front(), m_options.layout.supervisor_socket().string());
    }
    return "the supervisor does not run" + (found.empty() ? "" : "; left of it: " + found.text());
  }

  // Of this installation, without the supervisor's help.
  Result<> end_processes() const { return end_supervised(m_options.layout, m_options.waiting); }

  Result<> ensure_daemon() {
    const auto answers = ping();
    if (!m_options.may_start) {
      return answers ? Result<>()
                     : base::fail(Code::service_manager, "the supervisor does not run",
                                  "run 'dstackup install' again");
    }
    if (!answers) {
      if (const auto found = find_supervised(m_options.layout); !found.empty()) {
        base::log_warn(base::format("{}: ending {}", answers.error().message, found.text()));
      }
      DS_CHECK(end_processes());
      silent_ones().set(m_options.layout.supervisor_socket(), false);
    }
    base::Command command;
    // Rather the installation's own copy: where this program is may change or go.
    std::error_code error;
    const auto own = m_options.layout.libexec / "current/dstackup";
    const auto program = !m_options.supervisor_bin.empty() ? m_options.supervisor_bin
                         : fs::exists(own, error)          ? fs::canonical(own, error).string()
                                                           : m_options.supervisor_program;
    command.argv = {program,     "supervise",
                    "--run-dir", m_options.layout.run.string(),
                    "--log-dir", m_options.layout.logs().string()};
    if (answers) {
      DS_TRY(const auto running, connect_control_socket(m_options.layout.supervisor_socket()));
      return runs(running, program) ? Result<>() : become(program);
    }
    DS_TRY(const auto cgroup, supervisor_cgroup_root(m_options.instance));
    if (!cgroup.empty()) {
      command.argv.insert(command.argv.end(), {"--cgroup", cgroup});
    }
    command.timeout = std::chrono::seconds(20);
    auto started = base::run_checked(command);
    if (!started) {
      return base::fail(std::move(started).error(), "the built-in supervisor did not start");
    }
    return {};
  }

  // Does the supervisor at the other end run this program? An upgrade puts another one there.
  static bool runs(const base::Fd& connection, const std::string& program) {
    ucred peer = {};
    socklen_t length = sizeof peer;
    struct stat running = {};
    struct stat wanted = {};
    if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
        ::stat(base::format("/proc/{}/exe", peer.pid).c_str(), &running) != 0 ||
        ::stat(program.c_str(), &wanted) != 0) {
      return true;  // not known, so nothing is changed
    }
    return running.st_dev == wanted.st_dev && running.st_ino == wanted.st_ino;
  }

  Result<> become(const std::string& program) {
    SupervisorRequest request;
    request.verb = Verb::become;
    request.name = program;
    DS_TRY(const auto reply, ask(request, k_slack));
    if (!reply.ok) {
      // Nothing has changed: it does its work as before.
      base::log_warn("the built-in supervisor is not replaced: " + reply.error.what());
    }
    return {};
  }

  fs::path log_file(const std::string& name) const { return m_options.layout.logs() / (name + ".log"); }
  fs::path lock_file() const { return m_options.layout.run / "supervisor.lock"; }

  ServiceManagerOptions m_options;
};

}  // namespace

std::unique_ptr<ServiceManager> make_supervisor_manager(const ServiceManagerOptions& options) {
  return std::make_unique<SupervisorManager>(options);
}

}  // namespace dstack::host
