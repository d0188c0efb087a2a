// From QEMU's start to the app's first answer, with the share of each stage; the KMS stage of an install; the
// start of the client. Usage: boot_bench [RUNS]. Needs images (./dev images) in the prefix
// $DSTACK_E2E_DIR/prefix.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/bytes.h"
#include "base/fs.h"
#include "e2e/lab.h"
#include "host/state.h"
#include "net/client.h"
#include "proto/vmm_rpc.pb.h"
#include "rpc/client.h"

using namespace dstack;
using namespace dstack::e2e;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

namespace {

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double wall_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Wall-clock time at which a process started: its start in ticks since boot, and how long the machine is up.
double process_started(pid_t pid) {
  const auto ticks = base::process_start_time(pid);
  const auto uptime = base::read_file("/proc/uptime");
  if (!ticks || !uptime) {
    return 0;
  }
  return wall_now() - std::stod(*uptime) +
         static_cast<double>(*ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

[[noreturn]] void stop(const std::string& why) {
  std::fprintf(stderr, "boot_bench: %s\n", why.c_str());
  std::exit(1);
}

// The stages of one boot in seconds, in the order of their ends.
struct Boot {
  double total = 0;
  std::vector<std::pair<std::string, double>> stages;
};

Boot one_boot(const Lab& lab, int run) {
  const auto name = "bench" + std::to_string(run);
  const auto port = free_port();
  const auto deployed =
      lab.run({"dstack", "deploy", "-c", (lab.source / "examples/hello-nginx/docker-compose.yaml").string(),
               "-n", name, "--port", std::to_string(port) + ":80", "--no-wait", "-j"});
  if (deployed.exit_code != 0) {
    stop("deploy failed");
  }
  const std::string id = json::parse(deployed.out)["vmId"];
  pid_t qemu = 0;
  for (const auto& process : processes_naming((lab.state() / "vm" / id).string())) {
    if (process.find("qemu-system") != std::string::npos) {
      qemu = std::stoi(process);
    }
  }
  const double started = process_started(qemu);
  const auto begin = Clock::now();
  while (get(port, std::chrono::milliseconds(300)).status != 200) {
    if (seconds_since(begin) > 180) {
      stop("the app did not answer within 180 s");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  Boot boot;
  boot.total = wall_now() - started;

  const auto state = host::require_state(lab.state() / "dstackup-state.json");
  const auto token = base::read_file(lab.config() / "vmm-auth-token");
  const rpc::Client client(net::Client(*net::Endpoint::parse(state->client_url)), "/prpc",
                           std::string(base::trim(*token)));
  ::vmm::Id request;
  request.set_id(id);
  // The guest reports its stages right after the containers are up.
  for (int i = 0; i < 100 && boot.stages.empty(); ++i) {
    const auto info = client.call<::vmm::GetInfoResponse>("GetInfo", request);
    for (const auto& event :
         info ? info->info().events() : google::protobuf::RepeatedPtrField<::vmm::GuestEvent>()) {
      if (event.event() != "boot.timing") {
        continue;
      }
      const auto timing = nlohmann::ordered_json::parse(event.body());
      double before = 0;
      for (const auto& [stage, end_ms] : timing.items()) {
        const double end = end_ms.get<double>() / 1000;
        boot.stages.emplace_back(stage, end - before);
        before = end;
      }
      // The event left the guest when its last stage had ended, so kernel start = arrival - that uptime.
      const double kernel_start = static_cast<double>(event.timestamp()) / 1000 - before;
      boot.stages.insert(boot.stages.begin(), {"firmware and loading", kernel_start - started});
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  lab.run({"dstack", "remove", name});
  return boot;
}

void client_start(const Lab& lab) {
  const auto time_of = [](const std::string& program, const std::string& argument) {
    std::vector<double> times;
    for (int i = 0; i < 41; ++i) {
      const auto start = Clock::now();
      const auto ran = base::run({.argv = {program, argument}});
      if (!ran || ran->exit_code != 0) {
        stop(program + " " + argument + " failed");
      }
      times.push_back(seconds_since(start) * 1000);
    }
    return median(times);
  };
  const double floor = time_of("/bin/true", "--help");
  const double help = time_of((lab.programs / "dstack").string(), "--help");
  std::printf(
      "\ndstack --help            %6.1f ms   (/bin/true --help in the same run: %.1f ms; median of 41)\n",
      help, floor);
}

// Seconds that a verb of dstackup takes on the installation, median of `runs`.
double verb(const Lab& lab, const std::vector<std::string>& arguments, int runs) {
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    const auto output = lab.run(arguments);
    times.push_back(seconds_since(start));
    if (output.exit_code != 0 && output.exit_code != 3) {  // 3: doctor has warnings
      stop(arguments[0] + " " + arguments[1] + " failed");
    }
  }
  return median(times);
}

}  // namespace

int main(int argc, char** argv) {
  const int runs = argc > 1 ? std::atoi(argv[1]) : 5;
  const auto lab = Lab::open();
  const auto begin = Clock::now();
  const auto installed = lab.run({"dstackup", "install", "--platform", "simulated", "--dashboard-port",
                                  std::to_string(free_port()), "--auth-port", std::to_string(free_port()),
                                  "--host-api-port", std::to_string(free_port())});
  if (installed.exit_code != 0) {
    stop("install failed");
  }
  const double install = seconds_since(begin);

  std::vector<double> totals;
  std::vector<std::string> order;
  std::map<std::string, std::vector<double>> stages;
  for (int run = 0; run < runs; ++run) {
    const auto boot = one_boot(lab, run);
    totals.push_back(boot.total);
    for (const auto& [stage, seconds] : boot.stages) {
      if (!stages.contains(stage)) {
        order.push_back(stage);
      }
      stages[stage].push_back(seconds);
    }
  }
  const double doctor = verb(lab, {"dstackup", "doctor"}, 5);
  const double again = verb(lab, {"dstackup", "install", "--platform", "simulated"}, 5);
  const double destroy = verb(lab, {"dstackup", "destroy", "--purge"}, 1);

  std::printf("\nQEMU start to the app's first 200, %d boots, seconds\n", runs);
  std::printf("  %-24s %7s %7s\n", "stage", "median", "share");
  const double total = median(totals);
  for (const auto& stage : order) {
    const double value = median(stages[stage]);
    std::printf("  %-24s %7.2f %6.0f%%\n", stage.c_str(), value, 100 * value / total);
  }
  std::sort(totals.begin(), totals.end());
  std::printf("  %-24s %7.2f   (%.2f to %.2f)\n", "in all", total, totals.front(), totals.back());
  std::printf("\ndstackup install, whole  %6.1f s    (its own lines above show the KMS stage)\n", install);
  std::printf("dstackup install, again  %6.2f s    (nothing to do)\n", again);
  std::printf("dstackup doctor          %6.2f s\n", doctor);
  std::printf("dstackup destroy --purge %6.2f s    (the KMS's VM runs, and the caches of an image build)\n",
              destroy);
  client_start(lab);
  return 0;
}
