// Runs in every VM: brings the app up, serves its containers and its host, and ends with the machine.
#include <signal.h>

#include <cstdio>
#include <string_view>

#include "base/log.h"
#include "guest/boot.h"
#include "guest/log_forwarder.h"

namespace dstack::guest {
namespace {

constexpr const char* k_help =
    "dstack-guest " DSTACK_VERSION
    ": runs inside a dstack VM\n"
    "\n"
    "usage: dstack-guest boot       bring the app up and serve until the machine is to be powered off\n"
    "       dstack-guest --help     this text\n"
    "       dstack-guest --version  the version\n"
    "\n"
    "dstack-init starts `dstack-guest boot` and powers the machine off when it ends. The boot reads the disk "
    "labelled\n"
    "DSTACKSHR, measures the app, gets its keys, mounts the data disk and the app's volumes, and starts the "
    "containers\n"
    "with docker-compose on podman. Containers reach the agent at /run/dstack.sock.\n";

int boot() {
  base::log_setup("dstack-guest", base::LogLevel::info);
  // Before any thread exists, so that all of them leave these to sigwait() below.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  SystemMounter mounter;
  SystemRunner runner;
  const auto self = ::pthread_self();
  const auto seams = system_seams(mounter, runner);
  Boot boot(seams, [self] { ::pthread_kill(self, SIGTERM); });
  if (const auto booted = boot.run(); !booted) {
    boot.report_failure(booted.error());
    return 1;
  }
  LogForwarder logs(boot.containers().paths().graph_root(), seams.console, boot_time());
  if (boot.compose().public_logs) {
    logs.start();
  }
  int received = 0;
  ::sigwait(&signals, &received);
  boot.stop();
  return 0;
}

int run(int argc, char** argv) {
  const std::string_view verb = argc == 2 ? argv[1] : "";
  if (verb == "boot") {
    return boot();
  }
  if (verb == "--version") {
    std::puts("dstack-guest " DSTACK_VERSION);
    return 0;
  }
  if (verb == "--help" || verb == "-h") {
    std::fputs(k_help, stdout);
    return 0;
  }
  std::fputs(k_help, stderr);
  return 2;
}

}  // namespace
}  // namespace dstack::guest

int main(int argc, char** argv) {
  return dstack::guest::run(argc, argv);
}
