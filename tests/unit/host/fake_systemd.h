// systemd's side of D-Bus, for tests of what a real one does too rarely: signals before replies, hanging
// calls, jobs that never end, nonsense.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"

struct sd_bus;
struct sd_bus_message;

namespace dstack::test {

class FakeSystemd {
 public:
  struct Unit {
    std::map<std::string, std::string> text = {{"LoadState", "loaded"}, {"ActiveState", "inactive"}};
    std::map<std::string, int> flags;            // "b"
    std::map<std::string, int> integers;         // "i"
    std::map<std::string, unsigned> numbers;     // "u"
    std::map<std::string, std::uint64_t> times;  // "t"
  };
  struct Behaviour {
    std::string job_result = "done";
    bool job_ends = true;
    bool signal_before_reply = false;
    std::string hangs;  // this method gets no answer
    std::string fails;  // this one gets the error below
    std::string error = "org.freedesktop.systemd1.NoSuchUnit";
    std::string nonsense;  // this one gets an answer of another type
    std::function<void(const std::string& method, Unit& unit)> on_job;  // before the job ends
  };

  explicit FakeSystemd(const std::string& socket_path);
  ~FakeSystemd();
  FakeSystemd(const FakeSystemd&) = delete;
  FakeSystemd& operator=(const FakeSystemd&) = delete;

  std::string address() const { return "unix:path=" + m_path; }
  Behaviour& behaviour() { return m_behaviour; }  // before the call under test
  Unit& unit() { return m_unit; }                 // the only one there is
  std::vector<std::string> listed;                // answer to ListUnitsByPatterns
  // Methods that were called, "StartUnit dstack-x.service"; without Subscribe and reading of properties.
  std::vector<std::string> calls() const;

 private:
  friend struct FakeSystemdAccess;
  int handle(sd_bus_message* message);
  int answer(sd_bus_message* message, const std::string& method);
  int answer_job(sd_bus_message* message, const std::string& method);
  int answer_properties(sd_bus_message* message);
  int signal_end(sd_bus* bus, const std::string& job, const std::string& unit, const std::string& result);
  void serve();

  std::string m_path;
  base::Fd m_listener;
  base::Fd m_stop;
  Behaviour m_behaviour;
  Unit m_unit;
  mutable std::mutex m_mutex;
  std::vector<std::string> m_calls;
  int m_jobs = 0;
  std::thread m_thread;
};

}  // namespace dstack::test
