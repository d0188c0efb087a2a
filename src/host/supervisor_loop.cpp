#include "host/supervisor_loop.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <list>
#include <map>
#include <memory>

#include "base/format.h"
#include "base/log.h"
#include "base/process.h"
#include "host/supervised_service.h"
#include "host/supervisor_wire.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Clock = SupervisedService::Clock;

namespace {

constexpr std::size_t k_max_request = 256 * 1024;
constexpr std::chrono::seconds k_request_timeout{10};
constexpr std::uint64_t k_open_files = 65536;  // its own, whatever the shell that installs has

struct Connection {
  base::Fd fd;
  std::string input;
  Clock::time_point opened = Clock::now();
  std::optional<SupervisorRequest> waiting;  // read completely, answered when its service has settled
  bool done = false;
};

class Supervisor {
 public:
  Supervisor(const SupervisorOptions& options, SupervisorSeat seat, base::Fd signals)
      : m_options(options), m_seat(std::move(seat)), m_signals(std::move(signals)) {}

  // Goes on where the supervisor of before stopped.
  void go_on(SupervisorMemory memory) {
    for (auto& service : memory.services) {
      const auto name = service.spec.name;
      m_services[name] =
          std::make_unique<SupervisedService>(std::move(service), log_file(name), cgroup_of(name));
    }
    for (auto& known : memory.connections) {
      Connection connection{base::Fd(known.fd), std::move(known.input), Clock::now(), std::nullopt, false};
      if (known.waiting) {
        auto request =
            parse_request(std::string_view(connection.input).substr(0, connection.input.find('\n')));
        connection.done = !request;
        connection.waiting = request ? std::optional(std::move(*request)) : std::nullopt;
      }
      m_connections.push_back(std::move(connection));
    }
    reap();
  }

  void run() {
    while (!m_leaving || !all_settled()) {
      wait_for_events();
      for (auto& [name, service] : m_services) {
        service->on_time();
      }
      look_after_files();
      answer();
    }
    answer();
  }

 private:
  void wait_for_events() {
    std::vector<pollfd> fds = {{m_seat.control.get(), POLLIN, 0}, {m_signals.get(), POLLIN, 0}};
    auto until = Clock::now() + m_options.rotation_period;
    std::vector<SupervisedService*> notified;
    for (auto& [name, service] : m_services) {
      if (service->deadline()) {
        until = std::min(until, *service->deadline());
      }
      if (service->notify_fd() >= 0) {
        fds.push_back({service->notify_fd(), POLLIN, 0});
        notified.push_back(service.get());
      }
    }
    std::vector<Connection*> readers;
    for (auto& connection : m_connections) {
      // A waiting client is watched too: when it goes away, its connection is dropped.
      fds.push_back({connection.fd.get(), POLLIN, 0});
      readers.push_back(&connection);
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    if (::poll(fds.data(), fds.size(), static_cast<int>(std::max<long long>(0, left))) < 0) {
      return;
    }
    std::size_t at = 2;
    for (auto* service : notified) {
      if (fds[at++].revents != 0) {
        service->on_notify();
      }
    }
    for (auto* connection : readers) {
      if (fds[at++].revents != 0) {
        receive(*connection);
      }
    }
    if (fds[1].revents != 0) {
      take_signals();
    }
    if (fds[0].revents != 0) {
      accept_one();
    }
  }

  void take_signals() {
    signalfd_siginfo info = {};
    while (::read(m_signals.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo != SIGCHLD) {
        leave();
      }
    }
    reap();
  }

  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      for (auto& [name, service] : m_services) {
        if (service->pid() == pid) {
          service->on_exit(status);
          break;
        }
      }
    }
  }

  void accept_one() {
    base::Fd fd(::accept4(m_seat.control.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd && m_connections.size() < 64) {
      m_connections.push_back(Connection{std::move(fd), {}, Clock::now(), std::nullopt, false});
    }
  }

  void receive(Connection& connection) {
    char buffer[16384];
    const ssize_t n = ::read(connection.fd.get(), buffer, sizeof buffer);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      return;
    }
    if (n <= 0 || connection.waiting ||
        connection.input.size() + static_cast<std::size_t>(n) > k_max_request) {
      connection.done = true;
      return;
    }
    connection.input.append(buffer, static_cast<std::size_t>(n));
    const auto end = connection.input.find('\n');
    if (end == std::string::npos) {
      return;
    }
    auto request = parse_request(std::string_view(connection.input).substr(0, end));
    if (!request) {
      reply(connection, {false, std::move(request).error(), {}});
      return;
    }
    connection.waiting = std::move(*request);
    if (connection.waiting->verb == SupervisorRequest::Verb::become) {
      reply(connection, {false, become(connection.waiting->name), {}});
    } else {
      begin(*connection.waiting);
    }
  }

  // Returns only when it does not work.
  base::Error become(const std::string& program) {
    const auto able =
        base::run_checked({.argv = {program, "supervise", "--can-go-on", std::to_string(k_handover_format)},
                           .timeout = std::chrono::seconds(5)});
    if (!able) {
      return {Code::service_manager, program + " cannot go on in the place of the supervisor that runs",
              able.error().what(), "it goes on as it is until it is started the next time"};
    }
    SupervisorMemory memory{
        .options = m_options, .control_fd = m_seat.control.get(), .services = {}, .connections = {}};
    for (const auto& [name, service] : m_services) {
      memory.services.push_back(service->memory());
    }
    for (const auto& connection : m_connections) {
      if (!connection.done) {
        memory.connections.push_back({connection.fd.get(), connection.input, connection.waiting.has_value()});
      }
    }
    base::log_info("going on as " + program);
    auto error = host::become(program, memory);
    base::log_error(error.what());
    return error;
  }

  void begin(const SupervisorRequest& request) {
    using Verb = SupervisorRequest::Verb;
    switch (request.verb) {
      case Verb::start:
      case Verb::restart: {
        if (m_leaving) {
          break;
        }
        auto& service = m_services[request.spec.name];
        if (!service) {
          service = std::make_unique<SupervisedService>(request.spec, log_file(request.spec.name),
                                                        cgroup_of(request.spec.name));
        }
        service->start(request.spec, request.verb == Verb::restart);
        break;
      }
      case Verb::stop:
      case Verb::remove:
        if (const auto it = m_services.find(request.name); it != m_services.end()) {
          it->second->stop();
        }
        break;
      case Verb::shut_down:
        leave();
        break;
      case Verb::ping:
      case Verb::status:
      case Verb::become:
        break;
    }
  }

  void answer() {
    for (auto& connection : m_connections) {
      if (!connection.done && connection.waiting) {
        answer(connection, *connection.waiting);
      } else if (!connection.waiting && Clock::now() - connection.opened > k_request_timeout) {
        connection.done = true;
      }
    }
    m_connections.remove_if([](const Connection& connection) { return connection.done; });
  }

  void answer(Connection& connection, const SupervisorRequest& request) {
    using Verb = SupervisorRequest::Verb;
    const bool starting = request.verb == Verb::start || request.verb == Verb::restart;
    const auto it = m_services.find(starting ? request.spec.name : request.name);
    SupervisorReply out;
    switch (request.verb) {
      case Verb::ping:
      case Verb::become:  // done: this is the new program
        break;
      case Verb::shut_down:
        if (!all_settled()) {
          return;
        }
        break;
      case Verb::status:
        if (it != m_services.end()) {
          out.status = it->second->status();
        }
        out.status.name = request.name;
        break;
      case Verb::start:
      case Verb::restart:
        if (it == m_services.end()) {
          out.ok = false;
          out.error = {Code::service_manager, "the supervisor is shutting down", {}, "try again"};
          break;
        }
        if (!it->second->settled()) {
          return;
        }
        if (auto result = it->second->start_result(); !result) {
          out.ok = false;
          out.error = std::move(result).error();
        }
        break;
      case Verb::stop:
      case Verb::remove:
        if (it == m_services.end()) {
          break;
        }
        if (!it->second->settled()) {
          return;
        }
        if (request.verb == Verb::remove) {
          forget(request.name);
        }
        break;
    }
    reply(connection, out);
  }

  void forget(const std::string& name) {
    if (!m_options.cgroup_root.empty()) {
      if (auto removed = Cgroup(cgroup_of(name)).remove(); !removed) {
        base::log_warn(removed.error().what());
      }
    }
    m_services.erase(name);
  }

  static void reply(Connection& connection, const SupervisorReply& out) {
    const auto text = to_line(out);
    // A reply is far smaller than a socket buffer; a client that does not take it has gone.
    [[maybe_unused]] const auto n = ::send(connection.fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
    connection.done = true;
  }

  void leave() {
    m_leaving = true;
    for (auto& [name, service] : m_services) {
      service->stop();
    }
  }

  bool all_settled() const {
    return std::ranges::all_of(m_services, [](const auto& entry) { return entry.second->settled(); });
  }

  void look_after_files() {
    if (Clock::now() - m_looked < m_options.rotation_period) {
      return;
    }
    m_looked = Clock::now();
    if (auto kept = keep_socket(); !kept) {
      base::log_error(kept.error().what());
    }
    for (auto& [name, service] : m_services) {
      service->rotate_log(m_options.log_limit);
    }
  }

  // Without its file nobody could talk to us any more, and something that clears run-time directories may
  // have taken it.
  Result<> keep_socket() {
    const auto path = m_options.run / "supervisor.sock";
    struct stat info = {};
    if (m_leaving || ::lstat(path.c_str(), &info) == 0 || errno != ENOENT) {
      return {};
    }
    DS_CHECK(base::make_dirs(m_options.run, 0755));
    // Not to be had as long as our own is in its place.
    auto lock = base::FileLock::try_acquire(m_options.run / "supervisor.lock");
    if (lock && *lock) {
      m_seat.lock = std::move(**lock);
    }
    DS_TRY(m_seat.control, listen_control_socket(path));
    base::log_warn(path.string() + " was gone, it is made again");
    return {};
  }

  std::filesystem::path log_file(const std::string& name) const { return m_options.logs / (name + ".log"); }
  std::string cgroup_of(const std::string& name) const {
    return m_options.cgroup_root.empty() ? "" : m_options.cgroup_root + "/" + name;
  }

  const SupervisorOptions& m_options;
  SupervisorSeat m_seat;
  base::Fd m_signals;
  std::map<std::string, std::unique_ptr<SupervisedService>> m_services;
  std::list<Connection> m_connections;
  bool m_leaving = false;
  Clock::time_point m_looked = Clock::now();
};

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int s : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) {
    sigaddset(&set, s);
  }
  return set;
}

}  // namespace

Result<> serve_supervised(const SupervisorOptions& options, SupervisorSeat seat,
                          std::optional<SupervisorMemory> memory) {
  const sigset_t set = handled_signals();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  base::Fd signals(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) {
    return base::fail_errno(Code::service_manager, "cannot watch signals", errno);
  }
  // Orphans of services come here instead of to PID 1, so that they are reaped.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (!options.cgroup_root.empty()) {
    DS_CHECK(Cgroup(options.cgroup_root).create());
  }
  base::raise_open_files(k_open_files);
  Supervisor supervisor(options, std::move(seat), std::move(signals));
  if (memory) {
    supervisor.go_on(std::move(*memory));
  }
  supervisor.run();
  DS_CHECK(base::remove_file(options.run / "supervisor.sock"));
  return base::remove_file(options.run / "supervisor.lock");
}

}  // namespace dstack::host
