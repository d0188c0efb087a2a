// ServiceManager over D-Bus to systemd.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "host/service_manager.h"

namespace dstack::host {

struct SystemdOptions {
  std::filesystem::path unit_directory = "/etc/systemd/system";
  // D-Bus address of systemd itself (not of a bus); empty = the system bus, or systemd's private socket where
  // no bus runs. The environment never decides.
  std::string address;
  std::chrono::milliseconds call_timeout{25'000};  // of one D-Bus call
  // For what a job waits for besides the service itself: other jobs, and systemd being busy.
  std::chrono::milliseconds patience{30'000};
  // shut_down() stops the VM units whose working directory is below it; empty = none.
  std::filesystem::path vms;
};

std::unique_ptr<ServiceManager> make_systemd_manager(const SystemdOptions& options);

}  // namespace dstack::host
