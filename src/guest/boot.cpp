#include "guest/boot.h"

#include <sys/mount.h>
#include <unistd.h>

#include <future>

#include "attest/event_log.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "crypto/random.h"
#include "guest/host_share.h"
#include "guest/storage.h"

namespace dstack::guest {

namespace {

using base::Code;
using base::fail;
using base::Result;
namespace fs = std::filesystem;

constexpr auto k_flush_limit = std::chrono::seconds(15);
constexpr auto k_stop_limit = std::chrono::seconds(10);
constexpr auto k_service_limit = std::chrono::seconds(120);
// After a reboot of the host a KMS may take a while.
constexpr auto k_kms_limit = std::chrono::minutes(3);

ContainerPaths container_paths(const fs::path& root) {
  ContainerPaths paths;
  for (auto* each : {&paths.data, &paths.work, &paths.run, &paths.socket}) {
    *each = root / each->relative_path();
  }
  return paths;
}

std::string dmi(const fs::path& root, const char* name) {
  const auto text = base::read_file(root / "sys/class/dmi/id" / name, 4096);
  return text ? base::escape_control(base::trim(*text)) : std::string();
}

}  // namespace

Boot::Boot(Seams seams, std::function<void()> on_shutdown)
    : m_seams(std::move(seams)),
      m_on_shutdown(std::move(on_shutdown)),
      m_channel(make_silent_channel()),
      m_containers(*m_seams.runner, container_paths(m_seams.root)) {}

Boot::~Boot() {
  for (auto* server : {m_guest_api_server.get(), m_agent_server.get()}) {
    if (server != nullptr) {
      server->stop();
    }
  }
}

fs::path Boot::path(std::string_view absolute) const {
  return m_seams.root / fs::path(absolute).relative_path();
}
fs::path Boot::shared(std::string_view name) const {
  return path("/dstack/.host-shared") / name;
}

Result<std::optional<std::string>> Boot::read_shared(std::string_view name) const {
  auto text = base::read_file(shared(name), 64 * 1024 * 1024);
  if (text) {
    return std::optional(std::move(*text));
  }
  if (text.error().code == Code::not_found) {
    return std::optional<std::string>();
  }
  return fail(std::move(text).error());
}

void Boot::progress(std::string_view text) {
  const auto now = milliseconds_since_boot();
  m_seams.console(base::format("{:>3}.{:02} s  {}", now / 1000, now % 1000 / 10, base::escape_control(text)));
  m_channel->notify("boot.progress", text);
}

const std::vector<attest::RuntimeEvent> Boot::events() const {
  return m_events ? m_events->events() : std::vector<attest::RuntimeEvent>{};
}

Result<> Boot::run() {
  m_timeline.mark("init");
  DS_CHECK(m_seams.prepare_system());
  DS_CHECK(m_seams.network());
  m_timeline.mark("network");
  DS_CHECK(copy_share());
  DS_CHECK(read_configuration());
  m_timeline.mark("share");
  DS_CHECK(make_evidence());
  DS_CHECK(measure());
  m_timeline.mark("evidence");

  // The disks do not depend on the keys (there is no disk encryption yet), and podman takes seconds to start,
  // which pass while the KMS works.
  auto storage = std::async(std::launch::async, [this] { return set_up_storage(); });
  auto keys = get_keys();
  auto stored = storage.get();
  DS_CHECK(std::move(keys));
  DS_CHECK(std::move(stored));

  DS_CHECK(finish_measurement());
  DS_CHECK(start_agent());
  progress("data disk ready");
  DS_CHECK(run_init_scripts());
  DS_CHECK(start_containers());
  m_channel->notify("boot.timing", m_timeline.to_json());
  progress("done");
  return {};
}

Result<> Boot::copy_share() {
  DS_CHECK(m_seams.mounter->mount({"tmpfs", path("/dstack"), "tmpfs", 0, "mode=0755"}));
  DS_TRY(const auto disks, virtio_disks(m_seams.root));
  DS_TRY(const auto device, find_host_share(disks));
  const auto mounted = path("/run/dstack/host-share");
  DS_CHECK(
      m_seams.mounter->mount({device, mounted, "vfat", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, ""}));
  auto copied = copy_host_share(mounted, path("/dstack/.host-shared"));
  auto unmounted = m_seams.mounter->unmount(mounted);
  DS_CHECK(std::move(copied));
  return unmounted;
}

Result<> Boot::read_configuration() {
  DS_TRY(const auto sys_config, read_shared(".sys-config.json"));
  DS_TRY(m_sys_config, parse_sys_config(sys_config.value_or("")));
  if (!m_sys_config.host_api_url.empty()) {
    auto channel = m_seams.open_channel(m_sys_config);
    if (channel) {
      m_channel = std::move(*channel);
    } else {
      base::log_warn(base::format("the host API cannot be used: {}", channel.error().what()));
    }
  }
  DS_TRY(auto app_compose, read_shared("app-compose.json"));
  m_app_compose = std::move(app_compose).value_or("");
  DS_TRY(m_compose, app::parse_app_compose(m_app_compose));
  DS_TRY(const auto environment, read_shared(".encrypted-env"));
  DS_CHECK(check_supported(m_app_compose, m_compose, environment && !environment->empty()));

  DS_TRY(const auto info_text, read_shared(".instance_info"));
  InstanceInfo info;
  if (info_text && !base::trim(*info_text).empty()) {
    DS_TRY(info, parse_instance_info(*info_text));
  }
  DS_TRY(m_identity, make_identity(m_app_compose, m_compose, info));
  return {};
}

Result<> Boot::make_evidence() {
  DS_TRY(m_events, EventLog::create(path("/run/log/dstack/runtime_events.log")));
  DS_TRY(const auto simulator, read_shared(".tee-simulator.json"));
  if (!simulator) {
    return fail(Code::unsupported,
                "no TEE: this version knows only the simulated platform, and the host asks for none",
                "create the VM on a host installed with --platform simulated");
  }
  DS_TRY(const auto seed, parse_simulator_seed(*simulator));
  DS_TRY(auto platform, attest::SimulatedPlatform::from_seed(seed));
  DS_TRY(m_kms.anchors, attest::TrustAnchors::insecure_simulated(platform.root_pem()));
  m_evidence = std::make_unique<attest::SimulatedEvidence>(std::move(platform), m_sys_config.vm_config,
                                                           [this] { return m_events->events(); });
  return {};
}

Result<> Boot::measure() {
  DS_CHECK(m_events->emit(attest::k_event_system_preparing));
  DS_CHECK(m_events->emit(attest::k_event_app_id, m_identity.app_id));
  DS_CHECK(m_events->emit(attest::k_event_compose_hash, m_identity.compose_hash));
  for (const auto& script : m_compose.init_script) {
    DS_CHECK(m_events->emit("init-script-hash", crypto::sha256(base::as_bytes(script))));
  }
  DS_CHECK(m_events->emit(attest::k_event_instance_id, m_identity.instance_id));
  return m_events->emit(attest::k_event_boot_mr_done);
}

Result<> Boot::get_keys() {
  if (m_compose.key_provider == app::KeyProvider::kms) {
    progress("requesting app keys");
    m_kms.vm_config = m_sys_config.vm_config;
    m_kms.expected_ca_spki = base::from_hex(m_compose.key_provider_id).value_or(base::Bytes{});
    const Patience patience{k_kms_limit, m_seams.kms_pause,
                            [this] { progress("waiting for the KMS to answer"); }};
    DS_TRY(m_keys, fetch_kms_keys(m_sys_config.kms_urls, m_kms, *m_evidence, m_seams.fetch_keys, patience));
    m_kms.url = m_keys.kms_url;
    // Only here and only once, whichever URL answered: a second event could never be replayed.
    DS_CHECK(m_events->emit(attest::k_event_os_image_hash, m_keys.keys.os_image_hash));
  } else {
    DS_TRY(const auto seed, crypto::random_secret(32));
    DS_TRY(m_keys, derive_seed_keys(seed.view(), *m_evidence));
  }
  DS_CHECK(m_events->emit(attest::k_event_key_provider, base::as_bytes(m_keys.provider_event)));
  DS_CHECK(write_keys(shared(".appkeys.json"), m_keys));
  m_timeline.mark("keys");
  return {};
}

Result<> Boot::set_up_storage() {
  DS_TRY(const auto disks, virtio_disks(m_seams.root));
  DS_TRY(const auto disk, find_data_disk(disks));
  DS_TRY(const auto blank, mount_data_disk(disk, path("/dstack/data"), *m_seams.mounter, *m_seams.runner));
  base::log_info(blank ? "the data disk was empty and is initialised" : "the data disk is mounted");
  m_timeline.mark("disk");
  DS_TRY(const auto stores, mount_volumes(disks, m_compose.verity_volumes, *m_seams.mounter));
  m_timeline.mark("volumes");
  return m_containers.start_service(stores);
}

Result<> Boot::finish_measurement() {
  DS_CHECK(m_events->emit(attest::k_event_storage_fs, base::as_bytes("ext4")));
  const InstanceInfo info{base::to_hex(m_identity.instance_id_seed), base::to_hex(m_identity.instance_id),
                          base::to_hex(m_identity.app_id)};
  m_channel->notify("instance.info", to_json(info));
  return m_events->emit(attest::k_event_system_ready);
}

Result<> Boot::start_agent() {
  AgentContext context;
  context.app_compose = m_app_compose;
  context.compose = m_compose;
  context.identity = m_identity;
  context.vm_config = m_sys_config.vm_config;
  context.cloud_vendor = dmi(m_seams.root, "sys_vendor");
  context.cloud_product = dmi(m_seams.root, "product_name");
  if (m_keys.local_ca) {
    context.sign = sign_with_ca(*m_keys.local_ca, m_identity.app_id, *m_evidence);
  } else {
    context.sign = [this, ca = m_keys.keys.ca_cert_pem](const crypto::P256Key& key,
                                                        attest::CertificateRequest request) {
      return sign_certificate(m_kms, ca, key, std::move(request), *m_evidence);
    };
  }
  context.keys = std::move(m_keys);
  m_agent = std::make_unique<Agent>(std::move(context), *m_evidence);

  net::ServerOptions options;
  options.max_body = 1024 * 1024;
  options.workers = 4;
  options.server_header = agent_version();
  m_agent_server = std::make_unique<net::Server>(
      [this](const net::Request& request) { return m_agent->handle(request); }, options);
  DS_CHECK(m_agent_server->listen_unix(path("/run/dstack.sock").string(), 0777));
  m_agent_server->start();

  if (m_sys_config.host_api_token.empty()) {
    return {};
  }
  m_guest_api = std::make_unique<GuestApi>(*m_agent, m_sys_config.host_api_token, m_on_shutdown);
  options.workers = 2;
  m_guest_api_server = std::make_unique<net::Server>(
      [this](const net::Request& request) { return m_guest_api->handle(request); }, options);
  DS_TRY(m_guest_api_port, m_guest_api_server->listen_tcp(m_seams.guest_api_address, m_seams.guest_api_port));
  m_guest_api_server->start();
  return {};
}

Result<> Boot::run_init_scripts() {
  for (const auto& script : m_compose.init_script) {
    progress("init-script");
    base::Command command;
    command.argv = {"bash", "-euo", "pipefail", "-s"};
    command.directory = path("/dstack").string();
    command.input = script;
    command.timeout = std::chrono::minutes(10);
    command.on_line = [this](std::string_view line) { m_seams.console(base::escape_control(line)); };
    DS_TRY(const auto output, m_seams.runner->run(command));
    if (output.exit_code != 0) {
      return fail(program_error(Code::guest_setup, "init_script failed", output));
    }
  }
  return {};
}

Result<> Boot::start_containers() {
  progress("starting containers");
  if (auto ready = m_containers.wait_for_service(k_service_limit); !ready) {
    return fail(std::move(ready).error(), "failed to start containers");
  }
  m_timeline.mark("podman");
  DS_CHECK(m_containers.up(m_compose.docker_compose_file.value_or(""), [this](std::string_view line) {
    m_seams.console(base::format("  {}", base::escape_control(line)));
  }));
  m_timeline.mark("containers");
  return {};
}

void Boot::report_failure(const base::Error& error) {
  auto text = error.what();
  if (!error.fix.empty()) {
    text += base::format(" ({})", error.fix);
  }
  m_seams.console(
      base::format("boot failed ({}): {}", to_string(error.code), base::escape_control(text, true)));
  m_channel->notify("boot.error", text);
  // Final: the host must not take the end of the VM for a crash and start it again.
  m_channel->notify("shutdown.progress", "powering off");
  m_channel->flush(k_flush_limit);
}

void Boot::stop() {
  m_seams.console("powering off");
  m_channel->notify("shutdown.progress", "powering off");
  m_containers.stop(k_stop_limit);
  if (m_guest_api_server) {
    m_guest_api_server->stop();
  }
  m_channel->flush(k_flush_limit);
  ::sync();
}

}  // namespace dstack::guest
