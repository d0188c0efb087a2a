#include "host/transient_unit.h"

#include <signal.h>
#include <systemd/sd-bus.h>

#include "base/format.h"
#include "host/systemd_bus.h"
#include "host/unit_file.h"
#include "host/unit_setting.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::chrono::seconds k_call_timeout{25};
constexpr std::chrono::seconds k_start_limit{30};
constexpr std::chrono::seconds k_stop_limit{150};

// A directory that the sandbox shows empty: what is needed below it has to be named.
bool is_hidden(const std::string& path) {
  return path.starts_with("/home/") || path.starts_with("/root/") || path.starts_with("/run/user/") ||
         path.starts_with("/tmp/") || path.starts_with("/var/tmp/");
}

void add_limits(const TransientUnit& unit, std::vector<UnitSetting>& out) {
  if (unit.memory_max != 0) {
    out.push_back({"MemoryMax", "", unit.memory_max});
  }
  if (unit.tasks_max != 0) {
    out.push_back({"TasksMax", "", unit.tasks_max});
  }
  if (unit.cpu_percent != 0) {
    // Of each second. The file has it as a percentage.
    out.push_back({"CPUQuotaPerSecUSec", "",
                   UnitSetting::Microseconds{std::uint64_t{unit.cpu_percent} * 10'000},
                   /*in_file=*/false});
  }
}

void add_identity(const TransientUnit& unit, std::vector<UnitSetting>& out) {
  if (!unit.own_user.empty()) {
    out.push_back({"User", "", unit.own_user});
    out.push_back({"DynamicUser", "", true});
    // A home or temporary directory of somebody else's is none of its business, the programs in it are.
    std::vector<std::string> hidden;
    for (const auto& path : unit.readable_paths) {
      if (is_hidden(path)) {
        hidden.push_back(path);
      }
    }
    out.push_back({"ProtectHome", "", std::string(hidden.empty() ? "yes" : "tmpfs")});
    out.push_back({"BindReadOnlyPaths", "", UnitSetting::Binds{hidden}});
    out.push_back({"ProtectProc", "", std::string("invisible")});
    out.push_back({"ProcSubset", "", std::string("pid")});
    out.push_back({"PrivateTmp", "", true});
    out.push_back({"RemoveIPC", "", true});
  }
  if (!unit.groups.empty()) {
    out.push_back({"SupplementaryGroups", "", UnitSetting::Words{unit.groups}});
  }
}

std::vector<UnitSetting> settings_of(const TransientUnit& unit) {
  std::vector<UnitSetting> out = {
      {"Type", "", std::string("exec")},
      {"KillMode", "", std::string("control-group")},
      {"TimeoutStopUSec", "TimeoutStopSec",
       UnitSetting::Microseconds{
           static_cast<std::uint64_t>(std::chrono::microseconds(unit.stop_timeout).count())}},
      {"ExecStart", "", UnitSetting::Exec{unit.argv}},
      {"Environment", "", UnitSetting::Words{unit.environment}},
      {"UMask", "", UnitSetting::Mode{0077}},
      {"CapabilityBoundingSet", "", UnitSetting::None{}},
      {"AmbientCapabilities", "", UnitSetting::None{}},
      {"ProtectSystem", "", std::string("strict")},
  };
  if (!unit.slice.empty()) {
    out.push_back({"Slice", "", unit.slice});
  }
  if (!unit.directory.empty()) {
    // A user of its own is not let into it.
    out.push_back({"WorkingDirectory", "", (unit.own_user.empty() ? "" : "-") + unit.directory});
  }
  if (!unit.stdout_file.empty()) {
    out.push_back({"StandardOutputFileToAppend", "", unit.stdout_file, /*in_file=*/false});
  }
  if (!unit.stderr_file.empty()) {
    out.push_back({"StandardErrorFileToAppend", "", unit.stderr_file, /*in_file=*/false});
  }
  if (unit.stdin_fd) {
    out.push_back({"StandardInputFileDescriptor", "", UnitSetting::Descriptor{*unit.stdin_fd}, false});
  }
  std::vector<std::string> writable;
  writable.reserve(unit.writable_paths.size());
  for (const auto& path : unit.writable_paths) {
    writable.push_back("-" + path);
  }
  out.push_back({"ReadWritePaths", "", UnitSetting::Words{writable}});
  add_identity(unit, out);
  add_limits(unit, out);
  for (const char* name :
       {"NoNewPrivileges", "PrivateMounts", "PrivateIPC", "ProtectClock", "ProtectControlGroups",
        "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
        "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality"}) {
    out.push_back({name, "", true});
  }
  out.push_back({"KeyringMode", "", std::string("private")});
  out.push_back({"RestrictNamespaces", "", UnitSetting::None{}});
  out.push_back({"RestrictAddressFamilies", "", UnitSetting::Families{{"AF_INET", "AF_INET6", "AF_UNIX"}}});
  out.push_back({"DevicePolicy", "", std::string("closed")});
  out.push_back({"DeviceAllow", "", UnitSetting::Devices{unit.devices}});
  out.push_back({"SystemCallArchitectures", "", UnitSetting::Words{{"native"}}});
  out.push_back({"SystemCallErrorNumber", "", UnitSetting::Eperm{}});
  out.push_back({"SystemCallFilter", "",
                 UnitSetting::SystemCalls{{"@system-service", "seccomp"}, {"@privileged", "@resources"}}});
  return out;
}

int append_unit(sd_bus_message* message, const TransientUnit& unit, bool hold) {
  int r = sd_bus_message_append(message, "ss", (unit.name + ".service").c_str(), "fail");
  if (r < 0) {
    return r;
  }
  auto settings = settings_of(unit);
  settings.push_back({"Description", "", unit.description});
  settings.push_back({"CollectMode", "", std::string("inactive-or-failed")});
  if (hold) {
    settings.push_back({"AddRef", "", true});
  }
  r = append_settings(message, settings);
  return r < 0 ? r : sd_bus_message_append(message, "a(sa(sv))", 0);
}

Result<> check(const TransientUnit& unit) {
  DS_CHECK(check_unit_name(unit.name));
  if (unit.argv.empty() || !unit.argv.front().starts_with('/')) {
    return base::fail(Code::invalid_argument,
                      base::format("the unit {} needs a program with an absolute path", unit.name));
  }
  // What cannot travel in a D-Bus string.
  for (const auto* list : {&unit.argv, &unit.environment, &unit.writable_paths, &unit.readable_paths,
                           &unit.devices, &unit.groups}) {
    for (const auto& word : *list) {
      DS_CHECK(quote_unit_word(word));
    }
  }
  for (const auto* word : {&unit.description, &unit.directory, &unit.slice, &unit.stdout_file,
                           &unit.stderr_file, &unit.own_user}) {
    DS_CHECK(quote_unit_word(*word));
  }
  return {};
}

Result<UnitProperties> properties_of(SystemdBus& bus, const std::string& name) {
  auto unit = bus.properties(name + ".service");
  if (!unit) {
    return base::fail(unit.error().as_error(base::format("cannot ask systemd about {}.service", name)));
  }
  return std::move(*unit);
}

}  // namespace

Result<pid_t> start_transient_unit(const TransientUnit& unit, const std::string& address) {
  DS_CHECK(check(unit));
  DS_TRY(auto bus, SystemdBus::connect(address, k_call_timeout));
  const auto what = base::format("{} did not start as {}.service", unit.argv.front(), unit.name);
  const auto job = bus.job(
      "StartTransientUnit",
      [&](sd_bus_message* message) { return append_unit(message, unit, bus.is_message_bus()); },
      k_start_limit);
  if (!job) {
    auto error = job.error().as_error(what);
    if (job.error().is("UnitExists")) {
      error.code = Code::locked;
      error.fix = base::format("stop it first: systemctl stop {}.service", unit.name);
    }
    return base::fail(std::move(error));
  }
  DS_TRY(const auto properties, properties_of(bus, unit.name));
  const auto pid = static_cast<pid_t>(properties.integer("MainPID"));
  if (*job == "done" && pid > 0) {
    return pid;
  }
  const auto result = properties.string("Result");
  const auto cause = result == "exit-code" || result == "signal"
                         ? base::format("{} {}", result, properties.integer("ExecMainStatus"))
                         : base::format("job {}, result {}", *job, result);
  return base::fail(base::Error{Code::service_failed, what, cause,
                                base::format("see journalctl -u {}.service", unit.name)});
}

Result<std::string> render_transient_unit(const TransientUnit& unit) {
  DS_CHECK(check(unit));
  DS_TRY(const auto description, plain_unit_value(unit.description));
  DS_TRY(auto text, render_settings(settings_of(unit)));
  if (unit.cpu_percent != 0) {
    text += base::format("CPUQuota={}%\n", unit.cpu_percent);
  }
  return base::format("[Unit]\nDescription={}\nCollectMode=inactive-or-failed\n\n[Service]\n{}", description,
                      text);
}

Result<> kill_transient_unit(const std::string& name, const std::string& address) {
  DS_CHECK(check_unit_name(name));
  DS_TRY(auto bus, SystemdBus::connect(address, k_call_timeout));
  const auto killed = bus.call("KillUnit", [&](sd_bus_message* message) {
    return sd_bus_message_append(message, "ssi", (name + ".service").c_str(), "all", SIGKILL);
  });
  if (!killed && !killed.error().is("NoSuchUnit")) {
    return base::fail(killed.error().as_error(base::format("cannot kill {}.service", name)));
  }
  return {};
}

Result<> stop_transient_unit(const std::string& name, const std::string& address) {
  DS_CHECK(check_unit_name(name));
  DS_TRY(auto bus, SystemdBus::connect(address, k_call_timeout));
  const auto job = bus.unit_job("StopUnit", name + ".service", k_stop_limit);
  if (!job && !job.error().is("NoSuchUnit")) {
    return base::fail(job.error().as_error(base::format("cannot stop {}.service", name)));
  }
  return {};
}

Result<TransientStatus> transient_unit_status(const std::string& name, const std::string& address) {
  DS_CHECK(check_unit_name(name));
  DS_TRY(auto bus, SystemdBus::connect(address, k_call_timeout));
  DS_TRY(const auto unit, properties_of(bus, name));
  const auto pid = static_cast<pid_t>(unit.integer("MainPID"));
  return TransientStatus{unit.string("ActiveState") == "active" && pid > 0, pid};
}

Result<std::vector<std::string>> list_transient_units(const std::string& pattern,
                                                      const std::string& address) {
  DS_TRY(auto bus, SystemdBus::connect(address, k_call_timeout));
  auto names = bus.list(pattern + ".service");
  if (!names) {
    return base::fail(names.error().as_error("cannot list systemd's units"));
  }
  for (auto& name : *names) {
    name.resize(name.size() - std::string_view(".service").size());
  }
  return std::move(*names);
}

}  // namespace dstack::host
