// A VMM in this process: the real HTTP and RPC layers over a map of VMs that a test scripts.
#pragma once

#include <google/protobuf/empty.pb.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "app/app_compose.h"
#include "net/server.h"
#include "proto/vmm_rpc.pb.h"
#include "rpc/service.h"

namespace dstack::test {

class FakeVmm {
 public:
  using Empty = google::protobuf::Empty;

  explicit FakeVmm(std::string token = "secret") : m_token(std::move(token)), m_service("/prpc") {
    m_images = {"dstack-0.1.0"};
    on_create = [](::vmm::VmInfo& info, const ::vmm::VmConfiguration&) -> base::Result<> {
      info.set_status("running");
      info.set_boot_progress("done");
      return {};
    };
    on_info = [](::vmm::VmInfo&) {};
    bind_methods();
    m_server = std::make_unique<net::Server>([this](const net::Request& request) { return handle(request); });
    auto port = m_server->listen_tcp("127.0.0.1", 0);
    EXPECT_TRUE(port) << port.error().what();
    m_port = port.value_or(0);
    m_server->start();
  }

  net::Endpoint endpoint() const { return net::Endpoint::parse(url()).value(); }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(m_port); }

  // Called with the lock held. on_create decides about a new VM; on_info runs before every GetInfo.
  std::function<base::Result<>(::vmm::VmInfo&, const ::vmm::VmConfiguration&)> on_create;
  std::function<void(::vmm::VmInfo&)> on_info;
  // Overrides the answer of GetComposeHash.
  std::string compose_hash_lie;
  bool keep_removed = false;
  std::string log_text = "line 1\nline 2\n";

  void add(::vmm::VmInfo info) {
    const std::lock_guard lock(m_mutex);
    m_vms.push_back(std::move(info));
  }
  std::vector<::vmm::VmInfo> vms() {
    const std::lock_guard lock(m_mutex);
    return m_vms;
  }
  int calls(const std::string& method) {
    const std::lock_guard lock(m_mutex);
    return static_cast<int>(std::count(m_calls.begin(), m_calls.end(), method));
  }
  void set_images(std::vector<std::string> images) { m_images = std::move(images); }
  std::string last_log_query;

  net::Response handle(const net::Request& request) {
    if (!m_token.empty() && request.headers.get("Authorization") != "Bearer " + m_token) {
      return net::Response::text(401, "");
    }
    if (request.path == "/logs") {
      const std::lock_guard lock(m_mutex);
      last_log_query = request.query;
      if (find(request.query_value("id").value_or("")) == m_vms.end()) {
        return net::Response::text(404, "VM not found");
      }
      return net::Response::text(200, log_text);
    }
    {
      const std::lock_guard lock(m_mutex);
      m_calls.push_back(request.path.substr(request.path.rfind('/') + 1));
    }
    return m_service.handle(request);
  }

 private:
  std::vector<::vmm::VmInfo>::iterator find(const std::string& id) {
    return std::find_if(m_vms.begin(), m_vms.end(), [&](const auto& vm) { return vm.id() == id; });
  }

  void bind_methods() {
    m_service.on<::vmm::VmConfiguration, ::vmm::Id>(
        "CreateVm", [this](auto&, const ::vmm::VmConfiguration& config) { return create(config); });
    m_service.on<::vmm::VmConfiguration, ::vmm::ComposeHash>(
        "GetComposeHash",
        [this](auto&, const ::vmm::VmConfiguration& config) -> base::Result<::vmm::ComposeHash> {
          ::vmm::ComposeHash out;
          out.set_hash(compose_hash_lie.empty() ? app::compose_hash(config.compose_file())
                                                : compose_hash_lie);
          return out;
        });
    m_service.on<::vmm::StatusRequest, ::vmm::StatusResponse>(
        "Status", [this](auto&, const ::vmm::StatusRequest&) -> base::Result<::vmm::StatusResponse> {
          const std::lock_guard lock(m_mutex);
          ::vmm::StatusResponse out;
          for (const auto& vm : m_vms) {
            *out.add_vms() = vm;
          }
          out.set_total(static_cast<std::uint32_t>(m_vms.size()));
          return out;
        });
    m_service.on<::vmm::Id, ::vmm::GetInfoResponse>(
        "GetInfo", [this](auto&, const ::vmm::Id& id) -> base::Result<::vmm::GetInfoResponse> {
          const std::lock_guard lock(m_mutex);
          ::vmm::GetInfoResponse out;
          if (const auto vm = find(id.id()); vm != m_vms.end()) {
            on_info(*vm);
            out.set_found(true);
            *out.mutable_info() = *vm;
          }
          return out;
        });
    m_service.on<::vmm::Id, Empty>("RemoveVm", [this](auto&, const ::vmm::Id& id) -> base::Result<Empty> {
      const std::lock_guard lock(m_mutex);
      const auto vm = find(id.id());
      if (vm == m_vms.end()) {
        return base::fail(base::Code::rpc, "Failed to remove VM: VM not found");
      }
      vm->set_status("removing");
      if (!keep_removed) {
        m_vms.erase(vm);
      }
      return Empty();
    });
    m_service.on<Empty, ::vmm::ImageListResponse>(
        "ListImages", [this](auto&, const Empty&) -> base::Result<::vmm::ImageListResponse> {
          ::vmm::ImageListResponse out;
          for (const auto& name : m_images) {
            out.add_images()->set_name(name);
          }
          return out;
        });
    m_service.on<Empty, ::vmm::VersionResponse>(
        "Version", [](auto&, const Empty&) -> base::Result<::vmm::VersionResponse> {
          ::vmm::VersionResponse out;
          out.set_version("1.2.3");
          return out;
        });
  }

  base::Result<::vmm::Id> create(const ::vmm::VmConfiguration& config) {
    const std::lock_guard lock(m_mutex);
    ::vmm::VmInfo info;
    info.set_id("00000000-0000-4000-8000-" + std::to_string(100000000000 + m_next_id++));
    info.set_name(config.name());
    info.set_app_id(config.app_id());
    *info.mutable_configuration() = config;
    DS_CHECK(on_create(info, config));
    m_vms.push_back(info);
    ::vmm::Id id;
    id.set_id(info.id());
    return id;
  }

  std::string m_token;
  rpc::Service m_service;
  std::unique_ptr<net::Server> m_server;
  std::uint16_t m_port = 0;
  std::mutex m_mutex;
  std::vector<::vmm::VmInfo> m_vms;
  std::vector<std::string> m_images;
  std::vector<std::string> m_calls;
  std::uint64_t m_next_id = 0;
};

}  // namespace dstack::test
