#include "host/supervisor.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "host/cgroup.h"
#include "host/supervisor_loop.h"
#include "host/supervisor_wire.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

Result<SupervisorSeat> take_seat(const SupervisorOptions& options) {
  DS_CHECK(base::make_dirs(options.run, 0755));
  DS_CHECK(base::make_dirs(options.logs, 0755));
  DS_TRY(auto lock, base::FileLock::try_acquire(options.run / "supervisor.lock"));
  if (!lock) {
    return base::fail(Code::locked, "a supervisor already runs in " + options.run.string());
  }
  DS_TRY(auto control, listen_control_socket(options.run / "supervisor.sock"));
  return SupervisorSeat{std::move(*lock), std::move(control)};
}

// In the daemon: nothing of the caller's terminal, session, directory or open files (locks!) stays but
// `keep`.
bool detach(int keep) {
  const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {0, 1, 2}) {
    ::dup2(null_fd, fd);
  }
  const auto kept = static_cast<unsigned>(keep);
  return (kept == 3 || ::close_range(3, kept - 1, 0) == 0) && ::close_range(kept + 1, ~0U, 0) == 0 &&
         ::chdir("/") == 0;
}

}  // namespace

Result<std::string> supervisor_cgroup_root(const std::string& instance) {
  DS_TRY(const auto mount, find_cgroup2_mount());
  return mount ? *mount + "/" + unit_name("dstack", instance) : "";
}

Result<> run_supervisor(const SupervisorOptions& options) {
  DS_TRY(auto seat, take_seat(options));
  return serve_supervised(options, std::move(seat));
}

bool can_go_on_from(int format) {
  return format == k_handover_format;
}

Result<> go_on_as_supervisor(int handed_over) {
  base::log_setup("dstackup supervise", base::LogLevel::info);
  const auto served = [&]() -> Result<> {
    DS_TRY(auto memory, take_memory(base::Fd(handed_over)));
    const auto options = memory.options;
    // It was let go when this program began. Whoever takes it in between finds somebody listening and goes.
    DS_TRY(auto lock, base::FileLock::acquire(options.run / "supervisor.lock"));
    SupervisorSeat seat{std::move(lock), base::Fd(memory.control_fd)};
    return serve_supervised(options, std::move(seat), std::move(memory));
  }();
  if (!served) {
    base::log_error(served.error().what());
  }
  return served;
}

Result<> start_supervisor_daemon(const SupervisorOptions& options) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) {
    return base::fail_errno(Code::service_manager, "cannot make a pipe", errno);
  }
  base::Fd read_end(fds[0]);
  base::Fd write_end(fds[1]);
  const pid_t child = ::fork();
  if (child < 0) {
    return base::fail_errno(Code::service_manager, "cannot start the supervisor", errno);
  }
  if (child == 0) {
    read_end.reset();
    ::setsid();
    if (::fork() != 0) {
      ::_exit(0);
    }
    if (!detach(write_end.get())) {
      ::_exit(1);
    }
    auto seat = take_seat(options);
    const std::string line =
        seat ? to_line(SupervisorReply{}) : to_line(SupervisorReply{false, seat.error(), {}});
    const base::Fd log(
        ::open((options.logs / "supervisor.log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (log) {
      ::dup2(log.get(), 2);
    }
    [[maybe_unused]] const auto n = ::write(write_end.get(), line.data(), line.size());
    write_end.reset();
    if (!seat) {
      ::_exit(1);
    }
    base::log_setup("dstackup supervise", base::LogLevel::info);
    const auto served = serve_supervised(options, std::move(*seat));
    if (!served) {
      base::log_error(served.error().what());
    }
    ::_exit(served ? 0 : 1);
  }
  write_end.reset();
  ::waitpid(child, nullptr, 0);
  std::string line;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(read_end.get(), buffer, sizeof buffer)) != 0;) {
    if (n > 0) {
      line.append(buffer, static_cast<std::size_t>(n));
    } else if (errno != EINTR) {
      break;
    }
  }
  if (line.empty()) {
    return base::fail(Code::service_manager, "the supervisor ended before it listened",
                      "look at " + (options.logs / "supervisor.log").string());
  }
  DS_TRY(const auto reply, parse_reply(line));
  if (!reply.ok) {
    return base::fail(reply.error);
  }
  return {};
}

}  // namespace dstack::host
