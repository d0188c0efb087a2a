#include "vmm/api.h"

#include <google/protobuf/empty.pb.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "app/app_compose.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "host/image.h"
#include "vmm/vm_logs.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;
using google::protobuf::Empty;
using rpc::Call;

namespace {

constexpr int k_max_followers = 64;

std::optional<bool> parse_flag(const std::optional<std::string>& value) {
  if (!value) {
    return false;
  }
  if (*value == "true" || *value == "on" || *value == "yes" || value->empty()) {
    return true;
  }
  if (*value == "false" || *value == "off" || *value == "no") {
    return false;
  }
  return std::nullopt;
}

// Gives its place among the followers back when the stream is dropped.
class FollowerSlot {
 public:
  explicit FollowerSlot(std::shared_ptr<std::atomic<int>> count) : m_count(std::move(count)) { ++*m_count; }
  ~FollowerSlot() { --*m_count; }
  FollowerSlot(const FollowerSlot&) = delete;
  FollowerSlot& operator=(const FollowerSlot&) = delete;

 private:
  std::shared_ptr<std::atomic<int>> m_count;
};

bool matches(const VmView& view, const ::vmm::StatusRequest& request) {
  const auto& manifest = view.manifest;
  if (request.ids_size() > 0 &&
      std::find(request.ids().begin(), request.ids().end(), manifest.id) == request.ids().end()) {
    return false;
  }
  const auto& word = request.keyword();
  return word.empty() || manifest.name.find(word) != std::string::npos ||
         manifest.id.find(word) != std::string::npos || manifest.app_id.find(word) != std::string::npos ||
         manifest.image.find(word) != std::string::npos;
}

Result<::vmm::ImageListResponse> list_images(const Config& config) {
  ::vmm::ImageListResponse response;
  DS_TRY(const auto images, host::list_images(config.image_path));
  for (const auto& image : images) {
    auto* info = response.add_images();
    info->set_name(image.name);
    info->set_version(image.metadata.version);
    info->set_is_dev(image.metadata.is_dev);
    // The metadata as it is on disk, in one line.
    const auto text = base::read_file(image.directory / host::k_image_metadata);
    const auto json = nlohmann::ordered_json::parse(text.value_or(""), nullptr, /*allow_exceptions=*/false);
    info->set_description(json.is_discarded()
                              ? ""
                              : json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  }
  return response;
}

::vmm::GetMetaResponse get_meta(const Config& config) {
  ::vmm::GetMetaResponse response;
  auto* kms = response.mutable_kms();
  auto* gateway = response.mutable_gateway();
  if (!config.kms_urls.empty()) {
    kms->set_url(config.kms_urls.front());
    kms->mutable_urls()->Assign(config.kms_urls.begin(), config.kms_urls.end());
  }
  if (!config.gateway_urls.empty()) {
    gateway->set_url(config.gateway_urls.front());
    gateway->mutable_urls()->Assign(config.gateway_urls.begin(), config.gateway_urls.end());
  }
  auto* resources = response.mutable_resources();
  resources->set_max_allocable_vcpu(config.max_vcpu);
  resources->set_max_allocable_memory_in_mb(config.max_memory_mb);
  auto* networking = response.mutable_networking();
  networking->add_supported_modes("user");
  networking->set_default_mode("user");
  return response;
}

}  // namespace

std::string version_header() {
  return base::format("v{}", DSTACK_VERSION);
}

std::string human_duration(std::int64_t seconds) {
  if (seconds < 0) {
    return "never";
  }
  struct Unit {
    std::int64_t size;
    const char* one;
    const char* many;
  };
  constexpr std::array<Unit, 6> k_units = {Unit{31557600, "year", "years"},
                                           Unit{2630016, "month", "months"},
                                           Unit{86400, "day", "days"},
                                           Unit{3600, "h", "h"},
                                           Unit{60, "m", "m"},
                                           Unit{1, "s", "s"}};
  std::string out;
  for (const auto& unit : k_units) {
    const auto count = seconds / unit.size;
    seconds %= unit.size;
    if (count > 0) {
      out += base::format("{}{}{}", out.empty() ? "" : " ", count, count == 1 ? unit.one : unit.many);
    }
  }
  return out.empty() ? "0s" : out;
}

ExternalApi::ExternalApi(VmManager& manager)
    : m_manager(manager),
      m_guard(manager.config().auth, manager.config().address, manager.config().expose.address.ip),
      m_service("/prpc", {"Teepod.", "Vmm."}) {
  add_lifecycle();
  add_queries();
}

void ExternalApi::add_lifecycle() {
  using ::vmm::Id;
  m_service.on<::vmm::VmConfiguration, Id>(
      "CreateVm", [this](const Call&, const ::vmm::VmConfiguration& request) -> Result<Id> {
        DS_TRY(auto id, m_manager.create(request));
        Id out;
        out.set_id(std::move(id));
        return out;
      });
  const auto add = [this](const char* name, Result<> (VmManager::*action)(const std::string&)) {
    m_service.on<Id, Empty>(name, [this, action](const Call&, const Id& request) -> Result<Empty> {
      DS_CHECK((m_manager.*action)(request.id()));
      return Empty();
    });
  };
  add("StartVm", &VmManager::start);
  add("StopVm", &VmManager::stop);
  add("ShutdownVm", &VmManager::shutdown);
  add("RemoveVm", &VmManager::remove);
}

void ExternalApi::add_queries() {
  m_service.on<::vmm::StatusRequest, ::vmm::StatusResponse>(
      "Status", [this](const Call&, const ::vmm::StatusRequest& request) -> Result<::vmm::StatusResponse> {
        auto views = m_manager.list();
        std::erase_if(views, [&](const VmView& view) { return !matches(view, request); });
        ::vmm::StatusResponse out;
        out.set_port_mapping_enabled(m_manager.config().port_mapping.enabled);
        out.set_total(static_cast<std::uint32_t>(views.size()));
        std::size_t from = 0;
        std::size_t to = views.size();
        if (request.page() >= 1 && request.page_size() > 0) {
          from = std::min<std::size_t>(to, std::size_t{request.page() - 1} * request.page_size());
          to = std::min<std::size_t>(to, from + request.page_size());
        }
        for (std::size_t i = from; i < to; ++i) {
          *out.add_vms() = describe(views[i], request.brief());
        }
        return out;
      });
  m_service.on<::vmm::Id, ::vmm::GetInfoResponse>(
      "GetInfo", [this](const Call&, const ::vmm::Id& request) -> Result<::vmm::GetInfoResponse> {
        ::vmm::GetInfoResponse out;
        if (const auto view = m_manager.find(request.id())) {
          out.set_found(true);
          *out.mutable_info() = describe(*view, /*brief=*/false);
        }
        return out;
      });
  m_service.on<::vmm::VmConfiguration, ::vmm::ComposeHash>(
      "GetComposeHash", [](const Call&, const ::vmm::VmConfiguration& request) -> Result<::vmm::ComposeHash> {
        DS_CHECK(check_vm_name(request.name()));
        DS_CHECK(app::parse_app_compose(request.compose_file()));
        ::vmm::ComposeHash out;
        out.set_hash(app::compose_hash(request.compose_file()));
        return out;
      });
  m_service.on<Empty, ::vmm::ImageListResponse>(
      "ListImages", [this](const Call&, const Empty&) { return list_images(m_manager.config()); });
  m_service.on<Empty, ::vmm::VersionResponse>(
      "Version", [](const Call&, const Empty&) -> Result<::vmm::VersionResponse> {
        ::vmm::VersionResponse out;
        out.set_version(DSTACK_VERSION);
        return out;
      });
  m_service.on<Empty, ::vmm::GetMetaResponse>(
      "GetMeta", [this](const Call&, const Empty&) -> Result<::vmm::GetMetaResponse> {
        return get_meta(m_manager.config());
      });
}

::vmm::VmInfo ExternalApi::describe(const VmView& view, bool brief) const {
  const auto& manifest = view.manifest;
  const auto now = SystemClock().wall_ms();
  ::vmm::VmInfo out;
  out.set_id(manifest.id);
  out.set_name(manifest.name);
  out.set_status(view.status);
  out.set_app_id(manifest.app_id);
  if (view.broken) {
    out.set_boot_error(view.broken->what());
    out.set_uptime("never");
    return out;
  }
  out.set_uptime(human_duration(view.progress.started_at_ms > 0
                                    ? std::max<std::int64_t>(0, now - view.progress.started_at_ms) / 1000
                                    : -1));
  if (!view.running && view.progress.stopped_at_ms > 0) {
    out.set_exited_at(human_duration(std::max<std::int64_t>(0, now - view.progress.stopped_at_ms) / 1000));
  }
  if (!view.instance_id.empty()) {
    out.set_instance_id(view.instance_id);
  }
  out.set_boot_progress(view.progress.boot_progress);
  out.set_boot_error(view.progress.boot_error);
  out.set_shutdown_progress(view.progress.shutdown_progress);
  out.set_image_version(view.image_version);
  for (const auto& event : view.events) {
    auto* entry = out.add_events();
    entry->set_event(event.event);
    entry->set_body(event.body);
    entry->set_timestamp(static_cast<std::uint64_t>(event.wall_ms));
  }
  auto* nic = out.add_interfaces();
  nic->set_mode("user");
  nic->set_backend("slirp");
  nic->set_mac(
      mac_address(manifest.id, 0,
                  base::from_hex(manifest.networks.empty() ? "" : manifest.networks.front().mac_prefix)
                      .value_or(base::Bytes())));
  nic->set_netdev_id("net0");
  if (brief) {
    return out;
  }
  auto* configuration = out.mutable_configuration();
  configuration->set_name(manifest.name);
  configuration->set_image(manifest.image);
  configuration->set_compose_file(m_manager.read_compose(manifest.id));
  configuration->set_vcpu(manifest.vcpu);
  configuration->set_memory(manifest.memory);
  configuration->set_disk_size(manifest.disk_size);
  for (const auto& port : manifest.ports) {
    auto* entry = configuration->add_ports();
    entry->set_protocol(port.protocol);
    entry->set_host_address(port.address);
    entry->set_host_port(port.host_port);
    entry->set_vm_port(port.vm_port);
  }
  configuration->set_app_id(manifest.app_id);
  configuration->set_user_config(m_manager.read_user_config(manifest.id));
  configuration->mutable_kms_urls()->Assign(manifest.kms_urls.begin(), manifest.kms_urls.end());
  configuration->mutable_gateway_urls()->Assign(manifest.gateway_urls.begin(), manifest.gateway_urls.end());
  configuration->set_no_tee(manifest.no_tee);
  if (manifest.simulated_tee) {
    configuration->set_simulated_tee(*manifest.simulated_tee);
  }
  return out;
}

net::Response ExternalApi::logs(const net::Request& request) {
  const auto id = request.query_value("id");
  const auto follow = parse_flag(request.query_value("follow"));
  const auto ansi = parse_flag(request.query_value("ansi"));
  TailOptions options;
  bool good = id && follow && ansi;
  if (const auto lines = request.query_value("lines"); good && lines) {
    const auto [end, error] = std::from_chars(lines->data(), lines->data() + lines->size(), options.lines);
    good = error == std::errc{} && end == lines->data() + lines->size();
  }
  if (!good) {
    return net::Response::text(
        400, "use /logs?id=ID[&follow=true][&ansi=true][&lines=N][&ch=serial|stdout|stderr]\n");
  }
  const auto path = m_manager.log_path(*id, request.query_value("ch").value_or("serial"));
  if (!path) {
    return path.error().code == Code::vm_not_found ? net::Response::text(404, "VM not found")
                                                   : net::Response::text(400, path.error().message);
  }
  if (*follow && m_followers->load() >= k_max_followers) {
    return net::Response::text(503, "too many readers follow logs already\n");
  }
  options.follow = *follow;
  options.ansi = *ansi;
  net::Response response;
  response.headers.set("Content-Type", "text/plain; charset=utf-8");
  auto tail = std::make_shared<LogTail>(*path, options);
  auto slot = *follow ? std::make_shared<FollowerSlot>(m_followers) : nullptr;
  response.stream = [tail, slot] { return tail->next(); };
  return response;
}

std::optional<net::Response> ExternalApi::refuse(const net::Request& request) const {
  return m_guard.check(request);
}

net::Response ExternalApi::handle(const net::Request& request) {
  auto refused = refuse(request);
  auto response = refused                        ? std::move(*refused)
                  : m_service.owns(request.path) ? m_service.handle(request)
                  : request.path == "/logs"      ? logs(request)
                                                 : net::Response::text(404, "Not found");
  response.headers.set("X-Accel-Buffering", "no");
  return response;
}

}  // namespace dstack::vmm
