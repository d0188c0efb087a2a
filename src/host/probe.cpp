#include "host/probe.h"

#include <fcntl.h>
#include <sys/timex.h>

#include <cerrno>
#include <ctime>
#include <mutex>

#include "base/fd.h"
#include "base/process.h"

namespace dstack::host {

Probe machine_probe() {
  Probe probe;
  probe.open_device = [](const std::filesystem::path& device) {
    const base::Fd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
    return fd ? 0 : errno;
  };
  probe.ask_qemu = [](const std::string& qemu,
                      const std::vector<std::string>& arguments) -> base::Result<std::string> {
    base::Command command;
    command.argv = {qemu};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.timeout = std::chrono::seconds(5);
    DS_TRY(auto output, base::run_checked(command));
    return std::move(output.out);
  };
  probe.find_tool = base::find_tool;
  probe.now = [] { return static_cast<std::int64_t>(std::time(nullptr)); };
  probe.clock_is_kept = [] {
    timex state = {};
    const int answer = ::adjtimex(&state);
    return answer >= 0 && answer != TIME_ERROR && (state.status & STA_UNSYNC) == 0;
  };
  probe.contact_kms = contact_kms;
  return probe;
}

void add_services(Probe& probe, ServiceManager& services) {
  // Checks run in threads, one connection serves them all.
  auto lock = std::make_shared<std::mutex>();
  probe.service = [&services, lock](const std::string& name) {
    const std::scoped_lock held(*lock);
    return services.status(name);
  };
  probe.service_log = [&services, lock](const std::string& name, std::size_t lines) {
    const std::scoped_lock held(*lock);
    return services.logs(name, lines).value_or(std::vector<std::string>());
  };
}

}  // namespace dstack::host
