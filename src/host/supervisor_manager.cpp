// ServiceManager over the built-in supervisor's control socket.
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "host/cgroup.h"
#include "host/service_manager.h"
#include "host/supervised_service.h"
#include "host/supervisor.h"
#include "host/supervisor_wire.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

using Verb = SupervisorRequest::Verb;

constexpr std::chrono::seconds k_slack{30};

Result<SupervisorReply> exchange(const base::Fd& fd, const SupervisorRequest& request,
                                 std::chrono::milliseconds limit) {
  const auto line = to_line(request);
  if (::send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return base::fail_errno(Code::service_manager, "cannot talk to the supervisor", errno);
  }
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::string input;
  while (input.find('\n') == std::string::npos) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd waiting = {fd.get(), POLLIN, 0};
    const int ready = left.count() <= 0 ? 0 : ::poll(&waiting, 1, static_cast<int>(left.count()));
    if (ready == 0) {
      return base::fail(Code::timeout, "the supervisor did not answer in time");
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
    auto reply = ask(request, k_slack);
    if (!reply && reply.error().code == Code::connect_failed) {
      ServiceStatus none;
      none.name = name;
      none.result = "the supervisor does not run";
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
    auto reply = ask(request, std::chrono::seconds(60));
    if (!reply && reply.error().code != Code::connect_failed) {
      return base::fail(std::move(reply).error());
    }
    // It answers first and ends then; its lock tells when it has.
    for (int i = 0; i < 500; ++i) {
      std::error_code error;
      if (!fs::exists(lock_file(), error)) {
        break;
      }
      auto lock = base::FileLock::try_acquire(lock_file());
      if (lock && *lock) {
        DS_CHECK(base::remove_file(lock_file()));
        break;
      }
      ::usleep(10'000);
    }
    DS_CHECK(base::remove_file(m_options.layout.supervisor_socket()));
    const auto cgroup = Cgroup(supervisor_cgroup_root(m_options.instance));
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
    DS_TRY(auto reply, ask(request, spec.start_timeout + spec.stop_timeout + k_slack));
    if (!reply.ok) {
      return base::fail(std::move(reply.error));
    }
    return {};
  }

  Result<> tell(Verb verb, const std::string& name) {
    SupervisorRequest request;
    request.verb = verb;
    request.name = name;
    auto reply = ask(request, std::chrono::seconds(150));
    if (!reply && reply.error().code == Code::connect_failed) {
      return {};  // nothing runs without its supervisor
    }
    DS_TRY(auto answer, std::move(reply));
    if (!answer.ok) {
      return base::fail(std::move(answer.error));
    }
    return {};
  }

  Result<SupervisorReply> ask(const SupervisorRequest& request, std::chrono::milliseconds limit) {
    DS_TRY(const auto fd, connect_control_socket(m_options.layout.supervisor_socket()));
    return exchange(fd, request, limit);
  }

  Result<> ensure_daemon() {
    const auto running = connect_control_socket(m_options.layout.supervisor_socket());
    if (!m_options.may_start) {
      return running ? Result<>()
                     : base::fail(Code::service_manager, "the supervisor does not run",
                                  "run 'dstackup install' again");
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
    if (running) {
      return runs(*running, program) ? Result<>() : become(program);
    }
    if (const auto cgroup = supervisor_cgroup_root(m_options.instance); !cgroup.empty()) {
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
