#include <algorithm>
#include <optional>
#include <set>
#include <thread>

#include "base/bytes.h"
#include "base/format.h"
#include "client/deploy.h"
#include "client/port_probe.h"

namespace dstack::client {
namespace {

using base::Code;
using std::chrono::steady_clock;

// Polls that must see a VM not running before it counts as ended: QEMU may still be starting.
constexpr int k_ended_polls = 5;

bool lost_contact(Code code) {
  return code == Code::vmm_unreachable || code == Code::net || code == Code::http || code == Code::timeout;
}

class Waiter {
 public:
  Waiter(const VmmClient& vmm, const Deployed& deployed, const DeployObserver& observer,
         const WaitOptions& options)
      : m_vmm(vmm), m_deployed(deployed), m_observer(observer), m_options(options) {
    for (const app::PortSpec& port : deployed.ports) {
      if (port.protocol == "tcp") {
        m_silent_ports.push_back(port);
      }
    }
  }

  base::Result<> run() {
    const auto start = steady_clock::now();
    m_last_answer = start;
    while (true) {
      if (m_observer.interrupted && m_observer.interrupted()) {
        return base::fail(
            Code::interrupted, "stopped waiting; the app goes on starting",
            base::format("watch it with \"dstack logs -f {0}\" and \"dstack apps\", remove it with "
                         "\"dstack remove {0}\"",
                         m_deployed.vm_id));
      }
      if (!m_booted) {
        DS_CHECK(look());
      } else if (all_ports_answer()) {
        return {};
      }
      if (steady_clock::now() - start >= m_options.timeout) {
        return timed_out();
      }
      std::this_thread::sleep_for(m_options.poll);
    }
  }

 private:
  std::string hint() const {
    return base::format("look at \"dstack logs {0}\", then \"dstack remove {0}\"", m_deployed.vm_id);
  }

  base::Result<> look() {
    auto info = m_vmm.info(m_deployed.vm_id);
    if (!info) {
      const bool may_come_back = lost_contact(info.error().code);
      if (may_come_back && steady_clock::now() - m_last_answer < m_options.vmm_silence) {
        wait("the VMM");
        return {};
      }
      return base::fail(std::move(info).error());
    }
    m_last_answer = steady_clock::now();
    if (!*info) {
      return base::fail(Code::boot_failed, base::format("vm {} is gone", m_deployed.vm_id),
                        "deploy it again");
    }
    return judge(**info);
  }

  base::Result<> judge(const ::vmm::VmInfo& info) {
    for (const auto& event : info.events()) {
      report(event);
    }
    const std::string progress(base::trim(info.boot_progress()));
    if (!progress.empty() && progress != "N/A" && progress != m_progress) {
      m_progress = progress;
      step(progress);
    }
    if (const auto error = base::trim(info.boot_error()); !error.empty()) {
      return base::fail(base::Error{Code::boot_failed, base::format("{} did not start", info.name()),
                                    std::string(error), hint()});
    }
    const bool ended = info.status() == "exited" || info.status() == "stopped" || info.status() == "removing";
    m_ended_polls = ended ? m_ended_polls + 1 : 0;
    if (m_ended_polls >= k_ended_polls) {
      return base::fail(
          base::Error{Code::boot_failed, base::format("{} did not start", info.name()),
                      base::format("its VM is {}{}", info.status(),
                                   m_progress.empty() ? "" : ", the last it said was: " + m_progress),
                      hint()});
    }
    // "running" and "N/A" are what a VMM says that does not know how far the guest is.
    m_booted = progress == "done" || progress == "running" || progress == "N/A";
    if (!m_booted) {
      wait(progress.empty() ? "the VM" : progress);
    }
    return {};
  }

  // Steps come as events; the field boot_progress holds only the newest.
  void report(const ::vmm::GuestEvent& event) {
    const auto key = base::format("{}\n{}\n{}", event.timestamp(), event.event(), event.body());
    if (!m_seen.insert(key).second) {
      return;
    }
    const std::string body(base::trim(event.body()));
    if (event.event() == "boot.progress" && body != m_progress) {
      m_progress = body;
      step(body);
    } else if (event.event() == "vmm.auto_restart.exhausted") {
      step("the VM ended too often and is not restarted any more");
    }
  }

  bool all_ports_answer() {
    if (!m_options.probe_ports || !m_vmm.is_local()) {
      return true;
    }
    while (!m_silent_ports.empty()) {
      const app::PortSpec& port = m_silent_ports.front();
      if (!port_answers(port.host_address, port.host_port)) {
        wait(base::format("port {} to answer", port.host_port));
        return false;
      }
      step(base::format("port {} answers", port.host_port));
      m_silent_ports.erase(m_silent_ports.begin());
    }
    return true;
  }

  base::Result<> timed_out() const {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(m_options.timeout).count();
    std::string cause = m_progress.empty() ? "the guest said nothing" : "the last it said was: " + m_progress;
    if (m_booted && !m_silent_ports.empty()) {
      cause =
          base::format("its containers are started, but nothing answers at port {} of the VM (host port {})",
                       m_silent_ports.front().vm_port, m_silent_ports.front().host_port);
    }
    return base::fail(
        base::Error{Code::boot_timeout, base::format("not ready after {} s", seconds), cause,
                    base::format("it goes on starting; wait longer with --timeout, or {}", hint())});
  }

  void step(std::string_view text) const {
    if (m_observer.step) {
      m_observer.step(text);
    }
  }
  void wait(std::string_view text) const {
    if (m_observer.waiting) {
      m_observer.waiting(text);
    }
  }

  const VmmClient& m_vmm;
  const Deployed& m_deployed;
  const DeployObserver& m_observer;
  const WaitOptions& m_options;
  std::vector<app::PortSpec> m_silent_ports;
  std::set<std::string> m_seen;
  std::string m_progress;
  steady_clock::time_point m_last_answer;
  int m_ended_polls = 0;
  bool m_booted = false;
};

}  // namespace

base::Result<> wait_until_ready(const VmmClient& vmm, const Deployed& deployed,
                                const DeployObserver& observer, const WaitOptions& options) {
  return Waiter(vmm, deployed, observer, options).run();
}

}  // namespace dstack::client
