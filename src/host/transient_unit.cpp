#include "host/transient_unit.h"

#include <systemd/sd-bus.h>

#include <cerrno>
#include <optional>
#include <span>

#include "base/format.h"
#include "base/log.h"
#include "host/systemd_bus.h"
#include "host/unit_file.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::chrono::seconds k_call_timeout{25};
constexpr std::chrono::seconds k_start_limit{30};
constexpr std::chrono::seconds k_stop_limit{150};

std::string without_expansion(const std::string& word) {
  std::string out;
  for (const char c : word) {
    out += c == '$' ? std::string("$$") : std::string(1, c);
  }
  return out;
}

// Appends properties, "a(sv)". The first failure sticks.
class Properties {
 public:
  explicit Properties(sd_bus_message* message) : m_message(message) {
    keep(sd_bus_message_open_container(message, 'a', "(sv)"));
  }
  int close() { return keep(sd_bus_message_close_container(m_message)); }

  void text(const char* name, const std::string& value) {
    keep(sd_bus_message_append(m_message, "(sv)", name, "s", value.c_str()));
  }
  void flag(const char* name, bool value) {
    keep(sd_bus_message_append(m_message, "(sv)", name, "b", static_cast<int>(value)));
  }
  void number(const char* name, std::uint64_t value) {
    keep(sd_bus_message_append(m_message, "(sv)", name, "t", value));
  }
  void list(const char* name, const std::vector<std::string>& values) {
    open(name, "as");
    keep(sd_bus_message_open_container(m_message, 'a', "s"));
    for (const auto& value : values) {
      keep(sd_bus_message_append(m_message, "s", value.c_str()));
    }
    keep(sd_bus_message_close_container(m_message));
    shut();
  }
  void umask(std::uint32_t value) { keep(sd_bus_message_append(m_message, "(sv)", "UMask", "u", value)); }
  void devices(const std::vector<std::string>& nodes) {
    open("DeviceAllow", "a(ss)");
    keep(sd_bus_message_open_container(m_message, 'a', "(ss)"));
    for (const auto& node : nodes) {
      keep(sd_bus_message_append(m_message, "(ss)", node.c_str(), "rw"));
    }
    keep(sd_bus_message_close_container(m_message));
    shut();
  }
  void deny_system_calls(const std::vector<std::string>& groups) {
    open("SystemCallFilter", "(bas)");
    keep(sd_bus_message_open_container(m_message, 'r', "bas"));
    keep(sd_bus_message_append(m_message, "b", 0));
    keep(sd_bus_message_open_container(m_message, 'a', "s"));
    for (const auto& group : groups) {
      keep(sd_bus_message_append(m_message, "s", group.c_str()));
    }
    keep(sd_bus_message_close_container(m_message));
    keep(sd_bus_message_close_container(m_message));
    shut();
    keep(sd_bus_message_append(m_message, "(sv)", "SystemCallErrorNumber", "i", EPERM));
  }
  // Not ExecStartEx, which could turn off the expansion of $NAME: systemd 252 writes it down in a way that it
  // does not read again at the next reload.
  void exec(const std::vector<std::string>& argv) {
    open("ExecStart", "a(sasb)");
    keep(sd_bus_message_open_container(m_message, 'a', "(sasb)"));
    keep(sd_bus_message_open_container(m_message, 'r', "sasb"));
    keep(sd_bus_message_append(m_message, "s", argv.front().c_str()));
    keep(sd_bus_message_open_container(m_message, 'a', "s"));
    for (const auto& word : argv) {
      keep(sd_bus_message_append(m_message, "s", without_expansion(word).c_str()));
    }
    keep(sd_bus_message_close_container(m_message));
    keep(sd_bus_message_append(m_message, "b", 0));
    keep(sd_bus_message_close_container(m_message));
    keep(sd_bus_message_close_container(m_message));
    shut();
  }

 private:
  void open(const char* name, const char* type) {
    keep(sd_bus_message_open_container(m_message, 'r', "sv"));
    keep(sd_bus_message_append(m_message, "s", name));
    keep(sd_bus_message_open_container(m_message, 'v', type));
  }
  void shut() {
    keep(sd_bus_message_close_container(m_message));
    keep(sd_bus_message_close_container(m_message));
  }
  int keep(int r) {
    if (r < 0 && m_result >= 0) {
      m_result = r;
    }
    return m_result;
  }

  sd_bus_message* m_message;
  int m_result = 0;
};

int append_unit(sd_bus_message* message, const TransientUnit& unit, bool hold) {
  int r = sd_bus_message_append(message, "ss", (unit.name + ".service").c_str(), "fail");
  if (r < 0) {
    return r;
  }
  Properties properties(message);
  properties.text("Description", unit.description);
  properties.text("Type", "exec");
  properties.text("CollectMode", "inactive-or-failed");
  properties.text("KillMode", "control-group");
  properties.number("TimeoutStopUSec",
                    static_cast<std::uint64_t>(std::chrono::microseconds(unit.stop_timeout).count()));
  if (!unit.slice.empty()) {
    properties.text("Slice", unit.slice);
  }
  if (hold) {
    properties.flag("AddRef", true);
  }
  properties.exec(unit.argv);
  properties.list("Environment", unit.environment);
  if (!unit.directory.empty()) {
    properties.text("WorkingDirectory", unit.directory);
  }
  if (!unit.stdout_file.empty()) {
    properties.text("StandardOutputFileToAppend", unit.stdout_file);
  }
  if (!unit.stderr_file.empty()) {
    properties.text("StandardErrorFileToAppend", unit.stderr_file);
  }
  properties.umask(0077);
  properties.number("CapabilityBoundingSet", 0);
  properties.number("AmbientCapabilities", 0);
  properties.text("ProtectSystem", "strict");
  std::vector<std::string> writable;
  writable.reserve(unit.writable_paths.size());
  for (const auto& path : unit.writable_paths) {
    writable.push_back("-" + path);
  }
  properties.list("ReadWritePaths", writable);
  for (const char* name :
       {"NoNewPrivileges", "PrivateIPC", "ProtectClock", "ProtectControlGroups", "ProtectHostname",
        "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "RestrictRealtime",
        "RestrictSUIDSGID", "LockPersonality"}) {
    properties.flag(name, true);
  }
  properties.number("RestrictNamespaces", 0);
  properties.text("DevicePolicy", "closed");
  properties.devices(unit.devices);
  properties.list("SystemCallArchitectures", {"native"});
  properties.deny_system_calls({"@clock", "@cpu-emulation", "@debug", "@module", "@mount", "@obsolete",
                                "@raw-io", "@reboot", "@swap"});
  r = properties.close();
  return r < 0 ? r : sd_bus_message_append(message, "a(sa(sv))", 0);
}

Result<> check(const TransientUnit& unit) {
  DS_CHECK(check_unit_name(unit.name));
  if (unit.argv.empty() || !unit.argv.front().starts_with('/')) {
    return base::fail(Code::invalid_argument,
                      base::format("the unit {} needs a program with an absolute path", unit.name));
  }
  // What cannot travel in a D-Bus string.
  for (const auto* list : {&unit.argv, &unit.environment, &unit.writable_paths, &unit.devices}) {
    for (const auto& word : *list) {
      DS_CHECK(quote_unit_word(word));
    }
  }
  for (const auto* word :
       {&unit.description, &unit.directory, &unit.slice, &unit.stdout_file, &unit.stderr_file}) {
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
