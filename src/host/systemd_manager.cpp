#include "host/systemd_manager.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "host/systemd_bus.h"
#include "host/unit_file.h"
#include "host/unit_journal.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::chrono::seconds k_longest_stop{150};
constexpr std::size_t k_lines_in_error = 5;
constexpr std::chrono::milliseconds k_journal_patience{5'000};
constexpr const char* k_slice = "dstack.slice";

std::string unit_of(const std::string& name) {
  return name + ".service";
}

// From <systemd/sd-messages>' exit codes: what systemd's own part of a start may end with (systemd.exec(5)).
std::string describe_exit_code(std::int64_t code) {
  switch (code) {
    case 200:
      return "its working directory cannot be entered";
    case 203:
      return "its program cannot be executed";
    case 226:
      return "its sandbox cannot be set up";
    default:
      return base::format("exit code {}", code);
  }
}

// Why a service is not running, empty if it never failed.
std::string describe_result(const UnitProperties& unit) {
  const auto result = unit.string("Result");
  const auto status = unit.integer("ExecMainStatus");
  if (result == "exit-code") {
    return describe_exit_code(status);
  }
  if (result == "signal" || result == "core-dump") {
    return base::format("killed by signal {} ({})", status, ::strsignal(static_cast<int>(status)));
  }
  if (result == "timeout") {
    return "not ready, or not stopped, in time";
  }
  if (result == "protocol") {
    return "it ended without saying that it is ready";
  }
  if (result == "start-limit-hit") {
    return "it ended too often, not tried again";
  }
  if (result == "oom-kill") {
    return "killed because memory ran out";
  }
  return result == "success" ? "" : result;
}

ServiceState state_of(const UnitProperties& unit) {
  const auto active = unit.string("ActiveState");
  if (active == "active" || active == "reloading") {
    return ServiceState::active;
  }
  if (active == "activating") {
    return unit.string("SubState") == "auto-restart" ? ServiceState::waiting : ServiceState::starting;
  }
  if (active == "deactivating") {
    return ServiceState::stopping;
  }
  if (unit.string("LoadState") == "not-found") {
    return ServiceState::unknown;
  }
  return active == "failed" ? ServiceState::failed : ServiceState::stopped;
}

bool is_below(const std::filesystem::path& path, const std::filesystem::path& directory) {
  const auto [stop, ignored] = std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return stop == directory.end();
}

// The service's own words, then systemd's.
std::string reason(const UnitProperties& unit, const std::string& job_result) {
  auto result = describe_result(unit);
  if (result.empty()) {
    result = base::format("systemd's job ended with '{}'", job_result);
  }
  if (const auto number = unit.integer("StatusErrno"); number != 0) {
    result += base::format(", {}", std::strerror(static_cast<int>(number)));
  }
  const auto text = unit.string("StatusText");
  return text.empty() ? result : base::format("{} ({})", base::escape_control(text), result);
}

class SystemdManager : public ServiceManager {
 public:
  explicit SystemdManager(SystemdOptions options) : m_options(std::move(options)) {}

  std::string kind() const override { return "systemd"; }
  std::string description() const override { return "systemd (it is PID 1)"; }

  Result<> start(const ServiceSpec& spec) override { return bring_up(spec, /*anew=*/false); }
  Result<> restart(const ServiceSpec& spec) override { return bring_up(spec, /*anew=*/true); }

  Result<> stop(const std::string& name) override {
    DS_CHECK(check_unit_name(name));
    DS_CHECK(read_unit(name));
    DS_TRY(auto bus, connect());
    DS_CHECK(refuse_unit_elsewhere(bus, name));
    return stop_unit(bus, name);
  }

  Result<> remove(const std::string& name) override {
    DS_CHECK(check_unit_name(name));
    DS_CHECK(read_unit(name));
    DS_TRY(auto bus, connect());
    DS_CHECK(refuse_unit_elsewhere(bus, name));
    DS_CHECK(stop_unit(bus, name));
    if (auto done = bus.disable(unit_of(name)); !done && !done.error().is("NoSuchUnit")) {
      return base::fail(done.error().as_error(base::format("cannot disable {}", unit_of(name))));
    }
    // Left by a run that removed the file only.
    DS_CHECK(base::remove_file(m_options.unit_directory / "multi-user.target.wants" / unit_of(name)));
    DS_CHECK(remove_half_written(name));
    DS_CHECK(base::remove_file(unit_path(name)));
    DS_CHECK(reload(bus));
    if (auto done = bus.reset_failed(unit_of(name)); !done) {
      return base::fail(done.error().as_error(base::format("cannot forget {}", unit_of(name))));
    }
    return {};
  }

  Result<ServiceStatus> status(const std::string& name) override {
    DS_CHECK(check_unit_name(name));
    DS_TRY(auto bus, connect());
    DS_TRY(const auto unit, properties(bus, name));
    ServiceStatus out;
    out.name = name;
    out.state = state_of(unit);
    out.pid = static_cast<pid_t>(unit.integer("MainPID"));
    out.text = base::escape_control(unit.string("StatusText"));
    out.error_number = static_cast<int>(unit.integer("StatusErrno"));
    out.result = out.state == ServiceState::active ? "" : describe_result(unit);
    out.restarts = static_cast<unsigned>(unit.integer("NRestarts"));
    out.since_unix = unit.integer("StateChangeTimestamp") / 1'000'000;
    return out;
  }

  Result<std::vector<std::string>> logs(const std::string& name, std::size_t lines) override {
    DS_CHECK(check_unit_name(name));
    return unit_log(unit_of(name), lines);
  }

  Result<> shut_down() override {
    DS_TRY(auto bus, connect());
    DS_TRY(const auto vms, vm_units(bus));
    bool others = false;
    for (const auto& vm : vms) {
      DS_TRY(const auto unit, properties(bus, vm));
      // '!' says that the unit may be unable to enter it.
      auto directory = unit.string("WorkingDirectory");
      directory.erase(0, directory.starts_with('!') ? 1 : 0);
      if (m_options.vms.empty() || !is_below(directory, m_options.vms)) {
        others = true;
        continue;
      }
      DS_CHECK(stop_unit(bus, vm));
    }
    // The slice of the VMs stays as an empty cgroup once it was used; stopping it would stop all that is in
    // it.
    if (!others) {
      if (auto done = bus.unit_job("StopUnit", k_slice, m_options.patience);
          !done && !done.error().is("NoSuchUnit")) {
        return base::fail(done.error().as_error(base::format("cannot stop {}", k_slice)));
      }
    }
    return {};
  }

 private:
  std::filesystem::path unit_path(const std::string& name) const {
    return m_options.unit_directory / unit_of(name);
  }

  Result<SystemdBus> connect() const {
    return SystemdBus::connect(m_options.address, m_options.call_timeout);
  }

  // What a run left that was killed between writing a unit file and giving it its name. The directory is not
  // ours, so nobody else removes it.
  Result<> remove_half_written(const std::string& name) const {
    std::error_code error;
    for (std::filesystem::directory_iterator it(m_options.unit_directory, error), end; !error && it != end;
         it.increment(error)) {
      const auto file = it->path().filename().string();
      if (file.starts_with("." + unit_of(name) + ".") && file.ends_with(".tmp")) {
        DS_CHECK(base::remove_file(it->path()));
      }
    }
    return {};
  }

  // Text of our unit file; empty when there is none. Anything else of that name is not ours to change.
  Result<std::string> read_unit(const std::string& name) const {
    const auto path = unit_path(name);
    struct stat info = {};
    if (::lstat(path.c_str(), &info) != 0) {
      if (errno == ENOENT) {
        return std::string();
      }
      return base::fail_errno(Code::io, base::format("cannot look at {}", path.string()), errno);
    }
    if (S_ISLNK(info.st_mode)) {
      std::error_code error;
      const auto target = std::filesystem::read_symlink(path, error);
      if (target == "/dev/null") {
        return base::fail(Code::service_failed, base::format("the unit {} is masked", unit_of(name)),
                          base::format("run 'systemctl unmask {}'", unit_of(name)));
      }
    }
    if (S_ISREG(info.st_mode)) {
      DS_TRY(auto text, base::read_file(path));
      if (text.starts_with(k_unit_marker)) {
        return text;
      }
    }
    return base::fail(Code::service_manager, base::format("{} was not made by dstackup", path.string()),
                      "move it away, or choose another --instance");
  }

  // Such as sshd.service below /lib: without a file of ours, what has that name is not ours.
  Result<> refuse_unit_elsewhere(SystemdBus& bus, const std::string& name) const {
    DS_TRY(const auto unit, properties(bus, name));
    const auto file = unit.string("FragmentPath");
    if (file.empty() || file == unit_path(name)) {
      return {};
    }
    return base::fail(Code::service_manager,
                      base::format("{} comes from {}, which was not made by dstackup", unit_of(name), file),
                      "it is left alone; see what names it in the installation's record and journal");
  }

  Result<UnitProperties> properties(SystemdBus& bus, const std::string& name) const {
    auto unit = bus.properties(unit_of(name));
    if (!unit) {
      return base::fail(unit.error().as_error(base::format("cannot ask systemd about {}", unit_of(name))));
    }
    return std::move(*unit);
  }

  static Result<> reload(SystemdBus& bus) {
    if (auto done = bus.reload(); !done) {
      return base::fail(done.error().as_error("systemd did not reload its units"));
    }
    return {};
  }

  // A run that was interrupted after it wrote the file may have left the service running by its old
  // definition.
  bool is_stale(const std::string& name, const UnitProperties& unit) const {
    struct stat info = {};
    if (::stat(unit_path(name).c_str(), &info) != 0) {
      return true;
    }
    const auto written =
        static_cast<std::int64_t>(info.st_mtim.tv_sec) * 1'000'000 + info.st_mtim.tv_nsec / 1000;
    return unit.integer("InactiveExitTimestamp") < written;
  }

  Result<> bring_up(const ServiceSpec& spec, bool anew) {
    DS_TRY(const auto text, render_unit(spec));
    DS_TRY(const auto present, read_unit(spec.name));
    DS_TRY(auto bus, connect());
    DS_CHECK(remove_half_written(spec.name));
    if (text != present) {
      DS_CHECK(base::write_file_atomic(unit_path(spec.name), text, {.mode = 0644, .force_mode = true}));
    }
    DS_TRY(auto unit, properties(bus, spec.name));
    const bool was_enabled = unit.string("UnitFileState") == "enabled";
    if (!was_enabled) {
      if (auto done = bus.enable(unit_of(spec.name)); !done) {
        return base::fail(done.error().as_error(base::format("cannot enable {}", unit_of(spec.name))));
      }
    }
    if (text != present || !was_enabled || unit.integer("NeedDaemonReload") != 0) {
      DS_CHECK(reload(bus));
    }
    const bool active = unit.string("ActiveState") == "active";
    if (active && !anew && text == present && !is_stale(spec.name, unit)) {
      return {};
    }
    auto done = run_job(bus, spec, active ? "RestartUnit" : "StartUnit");
    // What never ran is not to be tried at every boot.
    if (!done && !was_enabled) {
      if (auto disabled = disable(bus, spec.name); !disabled) {
        base::log_warn(disabled.error().what());
      }
    }
    return done;
  }

  Result<> disable(SystemdBus& bus, const std::string& name) const {
    if (auto done = bus.disable(unit_of(name)); !done) {
      return base::fail(done.error().as_error(base::format("cannot disable {}", unit_of(name))));
    }
    return reload(bus);
  }

  Result<> run_job(SystemdBus& bus, const ServiceSpec& spec, const char* method) {
    const auto name = unit_of(spec.name);
    // Failures of the past must not count against the limit of starts.
    if (auto done = bus.reset_failed(name); !done) {
      return base::fail(done.error().as_error(base::format("cannot reset {}", name)));
    }
    const auto limit = spec.start_timeout + spec.stop_timeout + m_options.patience;
    const auto job = bus.unit_job(method, name, limit);
    if (!job && job.error().number != ETIMEDOUT) {
      auto error = job.error().as_error(base::format("the service {} did not start", spec.name));
      if (error.code == Code::service_manager) {
        error.code = Code::service_failed;
      }
      if (job.error().is("UnitMasked")) {
        error.fix = base::format("run 'systemctl unmask {}'", name);
      }
      return base::fail(std::move(error));
    }
    DS_TRY(const auto unit, properties(bus, spec.name));
    if (job && *job == "done" && unit.string("ActiveState") == "active") {
      return {};
    }
    base::Error error{Code::service_failed, base::format("the service {} did not start", spec.name),
                      reason(unit, job ? *job : "timeout"),
                      base::format("the whole log: journalctl -u {}", name)};
    // Else it is tried again, and again.
    const auto stopped = stop_unit(bus, spec.name);
    for (const auto& line :
         failed_start_log(name, unit.string("InvocationID"), k_lines_in_error, k_journal_patience)) {
      error.cause += "\n    " + line;
    }
    if (!stopped) {
      error.cause += "\n    " + stopped.error().what();
    }
    return base::fail(std::move(error));
  }

  Result<> stop_unit(SystemdBus& bus, const std::string& name) const {
    const auto job = bus.unit_job("StopUnit", unit_of(name), k_longest_stop);
    if (!job) {
      if (job.error().is("NoSuchUnit")) {
        return {};
      }
      return base::fail(job.error().as_error(base::format("cannot stop {}", unit_of(name))));
    }
    DS_TRY(const auto unit, properties(bus, name));
    const auto active = unit.string("ActiveState");
    if (active != "inactive" && active != "failed") {
      return base::fail(Code::service_manager,
                        base::format("{} is {} after it was stopped (job: {})", unit_of(name), active, *job),
                        base::format("see 'systemctl status {}'", unit_of(name)));
    }
    return {};
  }

  // Names of the VMs' transient units, of all installations.
  static Result<std::vector<std::string>> vm_units(SystemdBus& bus) {
    auto units = bus.list("dstack-vm-*.service");
    if (!units) {
      return base::fail(units.error().as_error("cannot list systemd's units"));
    }
    for (auto& unit : *units) {
      unit.resize(unit.size() - std::string_view(".service").size());
    }
    return std::move(*units);
  }

  SystemdOptions m_options;
};

}  // namespace

std::unique_ptr<ServiceManager> make_systemd_manager(const SystemdOptions& options) {
  return std::make_unique<SystemdManager>(options);
}

std::unique_ptr<ServiceManager> make_systemd_manager(const ServiceManagerOptions& options) {
  SystemdOptions systemd;
  systemd.vms = options.layout.vms();
  return make_systemd_manager(systemd);
}

}  // namespace dstack::host
