#include "context.h"
#include "host/supervisor.h"
#include "verbs.h"

namespace dstack::dstackup {

int run_supervise(int argc, const char* const* argv, const cli::Streams& streams) {
  std::string run;
  std::string logs;
  std::string cgroup;
  cli::Command program("dstackup supervise", "run services where systemd is not PID 1; started by install");
  program.option("--run-dir", run, "where the control socket is made");
  program.option("--log-dir", logs, "where the services' logs go");
  program.option("--cgroup", cgroup, "cgroup v2 directory for the services");
  program.require("--run-dir");
  program.require("--log-dir");
  program.action([&] {
    return report(streams, false, [&]() -> base::Result<int> {
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
