// systemd's D-Bus interface as this module needs it. Every call is bounded in time. One thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct sd_bus;
struct sd_bus_message;

namespace dstack::host {

struct BusError {
  std::string name;  // "org.freedesktop.systemd1.NoSuchUnit", empty for an error on this side
  std::string message;
  int number = 0;  // errno, positive

  bool is(std::string_view last_part) const;
  // Code::timeout, permission or service_manager.
  base::Error as_error(std::string what) const;
};

template <class T = void>
using BusResult = std::expected<T, BusError>;

// Properties of a unit and of its service: strings, numbers (booleans too), and byte arrays as hex among the
// strings.
struct UnitProperties {
  std::map<std::string, std::string> text;
  std::map<std::string, std::int64_t> number;

  std::string string(const std::string& name) const;
  std::int64_t integer(const std::string& name) const;
};

class SystemdBus {
 public:
  // An empty address is the system bus, or systemd's private socket where no bus runs.
  static base::Result<SystemdBus> connect(const std::string& address, std::chrono::milliseconds call_timeout);

  // A method of systemd's Manager. `fill` appends the arguments (negative errno = failure), `take` reads the
  // reply.
  using Step = std::function<int(sd_bus_message*)>;
  BusResult<> call(const char* method, const Step& fill = {}, const Step& take = {});
  // A method that answers with a job. Waits for that job's end and returns its result: "done", "failed",
  // "timeout", "canceled", "dependency", "skipped", ... BusError::number is ETIMEDOUT when the job outlasts
  // `limit`.
  BusResult<std::string> job(const char* method, const Step& fill, std::chrono::milliseconds limit);

  // StartUnit, StopUnit or RestartUnit with mode "replace".
  BusResult<std::string> unit_job(const char* method, const std::string& unit,
                                  std::chrono::milliseconds limit);
  // Loads the unit first; one that does not exist has LoadState "not-found".
  BusResult<UnitProperties> properties(const std::string& unit);
  BusResult<> reload() { return call("Reload"); }
  BusResult<> enable(const std::string& unit);
  BusResult<> disable(const std::string& unit);
  BusResult<> reset_failed(const std::string& unit);
  BusResult<std::vector<std::string>> list(const std::string& pattern);
  // Whether this is a connection through a message bus, so that systemd knows who asks.
  bool is_message_bus() const { return m_is_message_bus; }

 private:
  // Results of jobs that ended, by path. A job may end before the reply with its path is read, so all are
  // kept until the one that is waited for is known.
  using JobResults = std::map<std::string, std::string>;
  struct Closer {
    void operator()(sd_bus* bus) const;
  };
  SystemdBus() = default;
  base::Result<> open(const std::string& address, bool is_message_bus,
                      std::chrono::milliseconds call_timeout);
  BusResult<> get_all(const std::string& path, const char* interface, UnitProperties& out);

  // Declared first, so that it outlives the bus, whose signal handler writes to it.
  std::unique_ptr<JobResults> m_ended_jobs;
  std::unique_ptr<sd_bus, Closer> m_bus;
  bool m_is_message_bus = false;
};

}  // namespace dstack::host
