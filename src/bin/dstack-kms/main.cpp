// The key service: releases per-app keys to VMs whose evidence verifies and whose boot the webhook allows.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/format.h"
#include "base/log.h"
#include "base/notify.h"
#include "kms/agent_evidence.h"
#include "kms/config.h"
#include "kms/kms.h"

namespace dstack::kms {
namespace {

constexpr const char* k_default_config = "/etc/kms/kms.toml";
constexpr std::chrono::seconds k_agent_patience{20};

constexpr const char* k_help =
    "dstack-kms " DSTACK_VERSION
    ": releases keys to VMs whose evidence verifies and whose boot the webhook allows\n"
    "\n"
    "usage: dstack-kms [-c FILE | --config FILE]   serve; the default is /etc/kms/kms.toml\n"
    "       dstack-kms --help                      this text\n"
    "       dstack-kms --version                   the version\n"
    "\n"
    "environment: DSTACK_AGENT_ADDRESS   the guest agent, as unix:/path (default "
    "unix:/var/run/dstack.sock)\n";

int report(const base::Error& error) {
  base::log_error(base::format("{}: {}{}{}", base::to_string(error.code), error.what(),
                               error.fix.empty() ? "" : "; fix: ", error.fix));
  base::notify_failed(error);
  return 1;
}

// Keys must not reach the disk in a core file, nor another process by ptrace.
void protect_memory() {
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

int serve(const std::string& file) {
  base::log_setup("dstack-kms", base::LogLevel::info);
  std::signal(SIGPIPE, SIG_IGN);
  protect_memory();
  ::umask(0022);
  auto config = load_config(file);
  if (!config) {
    return report(config.error());
  }
  base::log_setup("dstack-kms", config->log_level);
  AgentEvidence evidence(agent_address(), k_agent_patience);
  auto kms = Kms::open(*std::move(config), evidence);
  if (!kms) {
    return report(kms.error());
  }
  auto& server = (*kms)->server();
  server.stop_on_signals();
  base::notify_ready(base::format("listening on port {}", (*kms)->port()));
  if (auto served = server.run(); !served) {
    return report(served.error());
  }
  base::notify_stopping();
  return 0;
}

int run(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (argc == 2 && (first == "--help" || first == "-h")) {
    std::fputs(k_help, stdout);
    return 0;
  }
  if (argc == 2 && first == "--version") {
    std::puts("dstack-kms " DSTACK_VERSION);
    return 0;
  }
  if (argc == 1) {
    return serve(k_default_config);
  }
  if (argc == 3 && (first == "-c" || first == "--config")) {
    return serve(argv[2]);
  }
  std::fputs(k_help, stderr);
  return 2;
}

}  // namespace
}  // namespace dstack::kms

int main(int argc, char** argv) {
  return dstack::kms::run(argc, argv);
}
