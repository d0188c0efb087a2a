#include "host/probe.h"

#include <fcntl.h>
#include <sys/timex.h>

#include <cerrno>
#include <ctime>
#include <mutex>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/log.h"
#include "base/process.h"
#include "net/client.h"

namespace dstack::host {

namespace {

base::Result<> ask_webhook(std::uint16_t port) {
  const auto address = base::format("127.0.0.1:{}", port);
  DS_TRY(auto endpoint, net::Endpoint::parse("http://" + address));
  net::ClientOptions options;
  options.connect_timeout = options.timeout = std::chrono::milliseconds(1500);
  net::Request request;
  request.method = "GET";
  request.path = "/health";
  DS_TRY(const auto answer, net::Client(std::move(endpoint), options).send(request));
  if (answer.status != 200) {
    return base::fail(base::Code::service_failed,
                      base::format("the webhook on {} is not healthy: {}", address,
                                   base::escape_control(base::trim(answer.body).substr(0, 300))));
  }
  return {};
}

}  // namespace

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
  probe.ask_auth = ask_webhook;
}

}  // namespace dstack::host
