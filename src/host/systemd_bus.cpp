#include "host/systemd_bus.h"

#include <systemd/sd-bus.h>

#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr const char* k_service = "org.freedesktop.systemd1";
constexpr const char* k_path = "/org/freedesktop/systemd1";
constexpr const char* k_manager = "org.freedesktop.systemd1.Manager";
constexpr const char* k_system_bus = "unix:path=/run/dbus/system_bus_socket";
constexpr const char* k_private_socket = "unix:path=/run/systemd/private";

struct MessageUnref {
  void operator()(sd_bus_message* message) const { sd_bus_message_unref(message); }
};
using Message = std::unique_ptr<sd_bus_message, MessageUnref>;

struct ErrorReply {
  sd_bus_error error = SD_BUS_ERROR_NULL;
  ErrorReply() = default;
  ErrorReply(const ErrorReply&) = delete;
  ErrorReply& operator=(const ErrorReply&) = delete;
  ~ErrorReply() { sd_bus_error_free(&error); }

  std::unexpected<BusError> with(int r) const {
    const int number = r < 0 ? -r : EIO;
    BusError out;
    out.name = error.name != nullptr ? error.name : "";
    out.message = error.message != nullptr ? error.message : std::strerror(number);
    out.number = number;
    return std::unexpected(std::move(out));
  }
};

template <class Number>
int read_number(sd_bus_message* message, const char* type, std::int64_t& out) {
  Number value = 0;
  const int r = sd_bus_message_read(message, "v", type, &value);
  out = static_cast<std::int64_t>(value);
  return r;
}

int read_text(sd_bus_message* message, const char* type, std::string& out) {
  const char* value = nullptr;
  const int r = sd_bus_message_read(message, "v", type, &value);
  out = r < 0 ? "" : value;
  return r;
}

int read_bytes(sd_bus_message* message, std::string& out) {
  const void* data = nullptr;
  std::size_t size = 0;
  int r = sd_bus_message_enter_container(message, 'v', "ay");
  if (r >= 0) {
    r = sd_bus_message_read_array(message, 'y', &data, &size);
  }
  if (r < 0) {
    return r;
  }
  out = base::to_hex({static_cast<const std::uint8_t*>(data), size});
  return sd_bus_message_exit_container(message);
}

// One "v" of a{sv}, if it is of a type that is kept.
int read_variant(sd_bus_message* message, const std::string& key, UnitProperties& out) {
  char type = 0;
  const char* contents = nullptr;
  const int r = sd_bus_message_peek_type(message, &type, &contents);
  if (r <= 0 || contents == nullptr) {
    return r < 0 ? r : -EBADMSG;
  }
  const std::string_view kind(contents);
  if (kind == "s" || kind == "o") {
    return read_text(message, contents, out.text[key]);
  }
  if (kind == "ay") {
    return read_bytes(message, out.text[key]);
  }
  if (kind == "b" || kind == "i") {
    return read_number<std::int32_t>(message, contents, out.number[key]);
  }
  if (kind == "u") {
    return read_number<std::uint32_t>(message, contents, out.number[key]);
  }
  if (kind == "x" || kind == "t") {
    return read_number<std::uint64_t>(message, contents, out.number[key]);
  }
  return sd_bus_message_skip(message, "v");
}

int read_property(sd_bus_message* message, UnitProperties& out) {
  const char* key = nullptr;
  int r = sd_bus_message_read(message, "s", &key);
  if (r >= 0) {
    r = read_variant(message, key, out);
  }
  return r < 0 ? r : sd_bus_message_exit_container(message);
}

int read_properties(sd_bus_message* message, UnitProperties& out) {
  int r = sd_bus_message_enter_container(message, 'a', "{sv}");
  while (r >= 0) {
    r = sd_bus_message_enter_container(message, 'e', "sv");
    if (r <= 0) {
      break;
    }
    r = read_property(message, out);
  }
  return r < 0 ? r : sd_bus_message_exit_container(message);
}

int read_unit_names(sd_bus_message* message, std::vector<std::string>& out) {
  int r = sd_bus_message_enter_container(message, 'a', "(ssssssouso)");
  while (r >= 0) {
    r = sd_bus_message_enter_container(message, 'r', "ssssssouso");
    if (r <= 0) {
      break;
    }
    const char* name = nullptr;
    r = sd_bus_message_read(message, "s", &name);
    if (r >= 0) {
      out.emplace_back(name);
      r = sd_bus_message_skip(message, "sssssouso");
    }
    if (r >= 0) {
      r = sd_bus_message_exit_container(message);
    }
  }
  return r;
}

std::string object_path_of(const std::string& unit) {
  char* path = nullptr;
  if (sd_bus_path_encode("/org/freedesktop/systemd1/unit", unit.c_str(), &path) < 0) {
    return {};
  }
  const std::unique_ptr<char, decltype(&std::free)> holder(path, &std::free);
  return path;
}

int on_job_removed(sd_bus_message* message, void* results, sd_bus_error* /*error*/) {
  std::uint32_t id = 0;
  const char* path = nullptr;
  const char* unit = nullptr;
  const char* result = nullptr;
  if (sd_bus_message_read(message, "uoss", &id, &path, &unit, &result) >= 0) {
    static_cast<std::map<std::string, std::string>*>(results)->insert_or_assign(path, result);
  }
  return 0;
}

SystemdBus::Step one_name(const std::string& unit, bool runtime, std::optional<bool> force) {
  return [unit, runtime, force](sd_bus_message* message) {
    int r = sd_bus_message_append(message, "as", 1, unit.c_str());
    if (r >= 0) {
      r = force ? sd_bus_message_append(message, "bb", static_cast<int>(runtime), static_cast<int>(*force))
                : sd_bus_message_append(message, "b", static_cast<int>(runtime));
    }
    return r;
  };
}

}  // namespace

bool BusError::is(std::string_view last_part) const {
  return name.size() > last_part.size() && name.ends_with(last_part) &&
         name[name.size() - last_part.size() - 1] == '.';
}

base::Error BusError::as_error(std::string what) const {
  const auto code = number == ETIMEDOUT                                            ? Code::timeout
                    : number == EACCES || number == EPERM                          ? Code::permission
                    : is("AccessDenied") || is("InteractiveAuthorizationRequired") ? Code::permission
                                                                                   : Code::service_manager;
  return base::Error{code, std::move(what), base::escape_control(message),
                     code == Code::permission ? "run the command as root" : ""};
}

std::string UnitProperties::string(const std::string& name) const {
  const auto at = text.find(name);
  return at == text.end() ? std::string() : at->second;
}

std::int64_t UnitProperties::integer(const std::string& name) const {
  const auto at = number.find(name);
  return at == number.end() ? 0 : at->second;
}

void SystemdBus::Closer::operator()(sd_bus* bus) const {
  sd_bus_flush_close_unref(bus);
}

Result<SystemdBus> SystemdBus::connect(const std::string& address, std::chrono::milliseconds call_timeout) {
  SystemdBus bus;
  if (!address.empty()) {
    DS_CHECK(bus.open(address, /*is_message_bus=*/false, call_timeout));
    return bus;
  }
  auto opened = bus.open(k_system_bus, /*is_message_bus=*/true, call_timeout);
  if (!opened && opened.error().code == Code::connect_failed) {
    DS_CHECK(bus.open(k_private_socket, /*is_message_bus=*/false, call_timeout));
    return bus;
  }
  DS_CHECK(std::move(opened));
  return bus;
}

Result<> SystemdBus::open(const std::string& address, bool is_message_bus,
                          std::chrono::milliseconds call_timeout) {
  sd_bus* raw = nullptr;
  int r = sd_bus_new(&raw);
  m_bus.reset(raw);
  m_ended_jobs = std::make_unique<JobResults>();
  m_is_message_bus = is_message_bus;
  if (r >= 0) {
    r = sd_bus_set_address(raw, address.c_str());
  }
  if (r >= 0 && is_message_bus) {
    r = sd_bus_set_bus_client(raw, 1);
  }
  if (r >= 0) {
    r = sd_bus_set_method_call_timeout(
        raw, static_cast<std::uint64_t>(std::chrono::microseconds(call_timeout).count()));
  }
  if (r >= 0) {
    r = sd_bus_start(raw);
  }
  if (r >= 0) {
    r = sd_bus_match_signal(raw, nullptr, is_message_bus ? k_service : nullptr, k_path, k_manager,
                            "JobRemoved", on_job_removed, m_ended_jobs.get());
  }
  if (r < 0) {
    const bool absent = r == -ENOENT || r == -ECONNREFUSED;
    return base::fail_errno(absent ? Code::connect_failed : Code::service_manager,
                            base::format("cannot talk to systemd at {}", address), -r,
                            absent ? "install dbus, or start dbus.socket" : "run the command as root");
  }
  auto subscribed = call("Subscribe");
  if (!subscribed && !subscribed.error().is("AlreadySubscribed")) {
    return base::fail(subscribed.error().as_error("systemd does not answer"));
  }
  return {};
}

BusResult<> SystemdBus::call(const char* method, const Step& fill, const Step& take) {
  ErrorReply failure;
  sd_bus_message* raw = nullptr;
  int r = sd_bus_message_new_method_call(m_bus.get(), &raw, k_service, k_path, k_manager, method);
  const Message request(raw);
  if (r >= 0 && fill) {
    r = fill(raw);
  }
  if (r < 0) {
    return failure.with(r);
  }
  sd_bus_message* raw_reply = nullptr;
  r = sd_bus_call(m_bus.get(), raw, 0, &failure.error, &raw_reply);
  const Message reply(raw_reply);
  if (r >= 0 && take) {
    r = take(raw_reply);
  }
  if (r < 0) {
    return failure.with(r);
  }
  return {};
}

BusResult<std::string> SystemdBus::job(const char* method, const Step& fill,
                                       std::chrono::milliseconds limit) {
  m_ended_jobs->clear();
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::string path;
  auto called = call(method, fill, [&](sd_bus_message* reply) {
    const char* text = nullptr;
    const int r = sd_bus_message_read(reply, "o", &text);
    path = r < 0 ? "" : text;
    return r;
  });
  if (!called) {
    return std::unexpected(std::move(called).error());
  }
  while (true) {
    if (const auto at = m_ended_jobs->find(path); at != m_ended_jobs->end()) {
      return at->second;
    }
    const int processed = sd_bus_process(m_bus.get(), nullptr);
    if (processed < 0) {
      return ErrorReply().with(processed);
    }
    if (processed > 0) {
      continue;
    }
    const auto left =
        std::chrono::duration_cast<std::chrono::microseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return std::unexpected(
          BusError{"", base::format("the job did not end within {} ms", limit.count()), ETIMEDOUT});
    }
    const int waited = sd_bus_wait(m_bus.get(), static_cast<std::uint64_t>(left.count()));
    if (waited < 0 && waited != -EINTR) {
      return ErrorReply().with(waited);
    }
  }
}

BusResult<std::string> SystemdBus::unit_job(const char* method, const std::string& unit,
                                            std::chrono::milliseconds limit) {
  return job(
      method,
      [&](sd_bus_message* message) { return sd_bus_message_append(message, "ss", unit.c_str(), "replace"); },
      limit);
}

BusResult<> SystemdBus::get_all(const std::string& path, const char* interface, UnitProperties& out) {
  ErrorReply failure;
  sd_bus_message* raw = nullptr;
  int r = sd_bus_call_method(m_bus.get(), k_service, path.c_str(), "org.freedesktop.DBus.Properties",
                             "GetAll", &failure.error, &raw, "s", interface);
  const Message reply(raw);
  if (r >= 0) {
    r = read_properties(raw, out);
  }
  if (r < 0) {
    return failure.with(r);
  }
  return {};
}

BusResult<UnitProperties> SystemdBus::properties(const std::string& unit) {
  // GetAll on the object path loads the unit by itself, and answers for units that do not exist, too.
  const auto path = object_path_of(unit);
  UnitProperties out;
  for (const char* interface : {"org.freedesktop.systemd1.Unit", "org.freedesktop.systemd1.Service"}) {
    if (std::string_view(interface).ends_with("Service") && !unit.ends_with(".service")) {
      continue;
    }
    if (auto got = get_all(path, interface, out); !got) {
      return std::unexpected(std::move(got).error());
    }
  }
  return out;
}

BusResult<> SystemdBus::enable(const std::string& unit) {
  return call("EnableUnitFiles", one_name(unit, /*runtime=*/false, /*force=*/true));
}

BusResult<> SystemdBus::disable(const std::string& unit) {
  return call("DisableUnitFiles", one_name(unit, /*runtime=*/false, std::nullopt));
}

BusResult<> SystemdBus::reset_failed(const std::string& unit) {
  auto done = call("ResetFailedUnit", [&](sd_bus_message* message) {
    return sd_bus_message_append(message, "s", unit.c_str());
  });
  if (!done && done.error().is("NoSuchUnit")) {
    return {};
  }
  return done;
}

BusResult<std::vector<std::string>> SystemdBus::list(const std::string& pattern) {
  std::vector<std::string> names;
  auto called = call(
      "ListUnitsByPatterns",
      [&](sd_bus_message* message) { return sd_bus_message_append(message, "asas", 0, 1, pattern.c_str()); },
      [&](sd_bus_message* reply) { return read_unit_names(reply, names); });
  if (!called) {
    return std::unexpected(std::move(called).error());
  }
  return names;
}

}  // namespace dstack::host
