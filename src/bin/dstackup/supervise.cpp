#include "context.h"
#include "host/supervisor.h"
#include "verbs.h"

namespace dstack::dstackup {

int run_supervise(int argc, const char* const* argv, const cli::Streams& streams) {
  std::string run;
  std::string logs;
  std::string cgroup;
  std::uint32_t format = 0;
  std::uint32_t handed_over = 0;
  cli::Command program("dstackup supervise", "run services where systemd is not PID 1; started by install");
  program.option("--run-dir", run, "where the control socket is made");
  program.option("--log-dir", logs, "where the services' logs go");
  program.option("--cgroup", cgroup, "cgroup v2 directory for the services");
  program.option("--can-go-on", format,
                 "only say whether this program can take a running supervisor's place");
  program.option("--go-on", handed_over, "take the place of a supervisor: what it handed over");
  program.action([&] {
    return report(streams, false, [&]() -> base::Result<int> {
      if (format != 0) {
        return host::can_go_on_from(static_cast<int>(format)) ? cli::k_exit_ok : cli::k_exit_failure;
      }
      if (handed_over != 0) {
        DS_CHECK(host::go_on_as_supervisor(static_cast<int>(handed_over)));
        return cli::k_exit_ok;
      }
      if (run.empty() || logs.empty()) {
        return base::fail(base::Code::usage, "--run-dir and --log-dir are needed",
                          "'dstackup install' starts it");
      }
      host::SupervisorOptions options;
      options.run = run;
      options.logs = logs;
      options.cgroup_root = cgroup;
      DS_CHECK(host::start_supervisor_daemon(options));
      return cli::k_exit_ok;
    });
  });
  return program.run(argc, argv, streams);
}

}  // namespace dstack::dstackup
