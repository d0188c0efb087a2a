// From a bare kernel to running containers (spec/guest-kms.md section 5.4, docs/architecture.md "A boot").
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "app/app_compose.h"
#include "attest/simulated.h"
#include "base/result.h"
#include "guest/agent.h"
#include "guest/config.h"
#include "guest/containers.h"
#include "guest/events.h"
#include "guest/guest_api.h"
#include "guest/host_channel.h"
#include "guest/keys.h"
#include "guest/mounts.h"
#include "guest/runner.h"
#include "guest/timeline.h"
#include "net/server.h"

namespace dstack::guest {

// Everything outside of this process. A test brings a directory, fakes and a free port.
struct Seams {
  std::filesystem::path root = "/";  // stands before every path
  Mounter* mounter = nullptr;
  Runner* runner = nullptr;
  std::function<base::Result<>()> prepare_system;  // host name, kernel settings, loopback
  std::function<base::Result<>()> network;
  std::function<base::Result<std::unique_ptr<HostChannel>>(const SysConfig&)> open_channel;
  FetchKeys fetch_keys;
  std::chrono::milliseconds kms_pause{1000};  // between questions to KMSs that do not answer
  std::function<void(std::string_view line)> console;
  std::uint16_t guest_api_port = k_guest_api_port;
  std::string guest_api_address = "0.0.0.0";
};
// The real ones.
Seams system_seams(Mounter& mounter, Runner& runner);

class Boot {
 public:
  // `on_shutdown` is called when the host asks for a shutdown through the guest API; from any thread, perhaps
  // often.
  Boot(Seams seams, std::function<void()> on_shutdown);
  ~Boot();

  // All steps up to `done`. The first error ends the boot; report it with report_failure().
  base::Result<> run();
  // Tells console and host `boot.error` and that the machine powers off, and waits for the delivery.
  void report_failure(const base::Error& error);
  // Tells the host, stops containers and servers, waits for the delivery.
  void stop();

  const std::vector<attest::RuntimeEvent> events() const;
  const app::AppCompose& compose() const { return m_compose; }
  const Containers& containers() const { return m_containers; }
  std::uint16_t guest_api_port() const { return m_guest_api_port; }

 private:
  base::Result<> copy_share();
  base::Result<> read_configuration();
  base::Result<> make_evidence();
  base::Result<> measure();
  base::Result<> get_keys();
  base::Result<> set_up_storage();
  base::Result<> finish_measurement();
  base::Result<> start_agent();
  base::Result<> run_init_scripts();
  base::Result<> start_containers();

  void progress(std::string_view text);
  std::filesystem::path path(std::string_view absolute) const;
  std::filesystem::path shared(std::string_view name) const;
  base::Result<std::optional<std::string>> read_shared(std::string_view name) const;

  Seams m_seams;
  std::function<void()> m_on_shutdown;
  Timeline m_timeline;
  std::unique_ptr<HostChannel> m_channel;
  std::string m_app_compose;
  app::AppCompose m_compose;
  SysConfig m_sys_config;
  BootIdentity m_identity;
  std::unique_ptr<EventLog> m_events;
  std::unique_ptr<attest::SimulatedEvidence> m_evidence;
  KmsOptions m_kms;
  BootKeys m_keys;
  Containers m_containers;
  std::unique_ptr<Agent> m_agent;
  std::unique_ptr<GuestApi> m_guest_api;
  std::unique_ptr<net::Server> m_agent_server;
  std::unique_ptr<net::Server> m_guest_api_server;
  std::uint16_t m_guest_api_port = 0;
};

}  // namespace dstack::guest
