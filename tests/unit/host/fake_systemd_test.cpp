// Not a test by itself: the implementation of fake_systemd.h, compiled with the tests that use it.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-bus.h>

#include <cstring>
#include <stdexcept>

#include "unit/host/fake_systemd.h"

namespace dstack::test {

struct FakeSystemdAccess {
  static int on_message(sd_bus_message* message, void* self, sd_bus_error* /*error*/) {
    return static_cast<FakeSystemd*>(self)->handle(message);
  }
};

FakeSystemd::FakeSystemd(const std::string& socket_path)
    : m_path(socket_path),
      m_listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      m_stop(::eventfd(0, EFD_CLOEXEC)) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (m_path.size() >= sizeof address.sun_path) {
    throw std::runtime_error("path too long: " + m_path);
  }
  std::memcpy(address.sun_path, m_path.data(), m_path.size());
  if (::bind(m_listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(m_listener.get(), 8) != 0) {
    throw std::runtime_error("cannot listen at " + m_path);
  }
  m_thread = std::thread([this] { serve(); });
}

FakeSystemd::~FakeSystemd() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto n = ::write(m_stop.get(), &one, sizeof one);
  m_thread.join();
}

std::vector<std::string> FakeSystemd::calls() const {
  const std::lock_guard lock(m_mutex);
  return m_calls;
}

// One connection after the other, each until it is closed.
void FakeSystemd::serve() {
  while (true) {
    pollfd fds[2] = {{m_stop.get(), POLLIN, 0}, {m_listener.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 || fds[0].revents != 0) {
      return;
    }
    const int fd = ::accept4(m_listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    sd_bus* bus = nullptr;
    sd_id128_t id = {};
    id.bytes[0] = 1;
    if (sd_bus_new(&bus) >= 0 && sd_bus_set_fd(bus, fd, fd) >= 0 && sd_bus_set_server(bus, 1, id) >= 0 &&
        sd_bus_add_filter(bus, nullptr, FakeSystemdAccess::on_message, this) >= 0 && sd_bus_start(bus) >= 0) {
      while (true) {
        const int r = sd_bus_process(bus, nullptr);
        if (r < 0) {
          break;
        }
        if (r > 0) {
          continue;
        }
        pollfd both[2] = {{m_stop.get(), POLLIN, 0}, {fd, static_cast<short>(sd_bus_get_events(bus)), 0}};
        ::poll(both, 2, 1000);
        if (both[0].revents != 0) {
          break;
        }
      }
    }
    sd_bus_flush_close_unref(bus);
  }
}

int FakeSystemd::handle(sd_bus_message* message) {
  std::uint8_t type = 0;
  sd_bus_message_get_type(message, &type);
  if (type != SD_BUS_MESSAGE_METHOD_CALL) {
    return 0;
  }
  const std::string method = sd_bus_message_get_member(message);
  if (method != "Subscribe" && method != "GetAll") {
    // The unit's name is the first argument or the first of a list.
    const char* name = nullptr;
    if (sd_bus_message_has_signature(message, "") <= 0) {
      sd_bus_message_enter_container(message, 'a', "s");
      sd_bus_message_read(message, "s", &name);
    }
    const std::lock_guard lock(m_mutex);
    m_calls.push_back(name != nullptr ? method + " " + name : method);
    sd_bus_message_rewind(message, 1);
  }
  if (method == m_behaviour.hangs) {
    return 1;
  }
  if (method == m_behaviour.fails) {
    return sd_bus_reply_method_errorf(message, m_behaviour.error.c_str(), "the fake refuses");
  }
  if (method == m_behaviour.nonsense) {
    return sd_bus_reply_method_return(message, "x", INT64_C(42));
  }
  return answer(message, method);
}

int FakeSystemd::answer(sd_bus_message* message, const std::string& method) {
  if (method == "GetAll") {
    return answer_properties(message);
  }
  if (method.starts_with("Start") || method.starts_with("Stop") || method.starts_with("Restart")) {
    return answer_job(message, method);
  }
  if (method == "EnableUnitFiles") {
    m_unit.text["UnitFileState"] = "enabled";
    return sd_bus_reply_method_return(message, "ba(sss)", 1, 0);
  }
  if (method == "DisableUnitFiles") {
    m_unit.text["UnitFileState"] = "disabled";
    return sd_bus_reply_method_return(message, "a(sss)", 0);
  }
  if (method == "ListUnitsByPatterns") {
    sd_bus_message* reply = nullptr;
    int r = sd_bus_message_new_method_return(message, &reply);
    if (r >= 0) {
      sd_bus_message_open_container(reply, 'a', "(ssssssouso)");
      for (const auto& name : listed) {
        sd_bus_message_append(reply, "(ssssssouso)", name.c_str(), "", "loaded", "active", "running", "", "/",
                              0, "", "/");
      }
      sd_bus_message_close_container(reply);
      r = sd_bus_send(nullptr, reply, nullptr);
    }
    sd_bus_message_unref(reply);
    return r < 0 ? r : 1;
  }
  return sd_bus_reply_method_return(message, "");
}

int FakeSystemd::signal_end(sd_bus* bus, const std::string& job, const std::string& unit,
                            const std::string& result) {
  return sd_bus_emit_signal(bus, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
                            "JobRemoved", "uoss", 1U, job.c_str(), unit.c_str(), result.c_str());
}

int FakeSystemd::answer_job(sd_bus_message* message, const std::string& method) {
  const char* name = nullptr;
  sd_bus_message_read(message, "s", &name);
  const std::string unit = name;
  const std::string job = "/org/freedesktop/systemd1/job/" + std::to_string(++m_jobs);
  sd_bus* bus = sd_bus_message_get_bus(message);
  if (method == "StopUnit") {
    m_unit.text["ActiveState"] = "inactive";
  } else if (m_behaviour.on_job) {
    m_behaviour.on_job(method, m_unit);
  }
  const bool stop = method == "StopUnit";
  const auto result = stop ? "done" : m_behaviour.job_result;
  // Somebody else's job, which must be of no interest.
  signal_end(bus, "/org/freedesktop/systemd1/job/99999", unit, "canceled");
  if (m_behaviour.signal_before_reply) {
    signal_end(bus, job, unit, result);
  }
  const int r = sd_bus_reply_method_return(message, "o", job.c_str());
  if (!m_behaviour.signal_before_reply && (m_behaviour.job_ends || stop)) {
    signal_end(bus, job, unit, result);
  }
  return r;
}

int FakeSystemd::answer_properties(sd_bus_message* message) {
  sd_bus_message* reply = nullptr;
  int r = sd_bus_message_new_method_return(message, &reply);
  if (r < 0) {
    return r;
  }
  sd_bus_message_open_container(reply, 'a', "{sv}");
  for (const auto& [key, value] : m_unit.text) {
    sd_bus_message_append(reply, "{sv}", key.c_str(), "s", value.c_str());
  }
  for (const auto& [key, value] : m_unit.flags) {
    sd_bus_message_append(reply, "{sv}", key.c_str(), "b", value);
  }
  for (const auto& [key, value] : m_unit.integers) {
    sd_bus_message_append(reply, "{sv}", key.c_str(), "i", value);
  }
  for (const auto& [key, value] : m_unit.numbers) {
    sd_bus_message_append(reply, "{sv}", key.c_str(), "u", value);
  }
  for (const auto& [key, value] : m_unit.times) {
    sd_bus_message_append(reply, "{sv}", key.c_str(), "t", value);
  }
  // Types that are passed over, as most of a real unit's are.
  sd_bus_message_append(reply, "{sv}", "Names", "as", 2, "a", "b");
  sd_bus_message_append(reply, "{sv}", "Job", "(uo)", 0U, "/");
  sd_bus_message_close_container(reply);
  r = sd_bus_send(nullptr, reply, nullptr);
  sd_bus_message_unref(reply);
  return r < 0 ? r : 1;
}

}  // namespace dstack::test
