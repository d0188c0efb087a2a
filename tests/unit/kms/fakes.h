// A webhook whose answers a test chooses, and evidence of machines that do not exist.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "attest/ra_tls.h"
#include "attest/simulated.h"
#include "base/format.h"
#include "net/server.h"

namespace dstack::kms::fakes {

class FakeWebhook {
 public:
  FakeWebhook() : m_server([this](const net::Request& request) { return answer(request); }) {
    m_port = m_server.listen_tcp("127.0.0.1", 0).value();
    m_server.start();
  }
  std::string url() const { return base::format("http://127.0.0.1:{}", m_port); }

  void set(std::function<net::Response(const net::Request&)> handler) {
    const std::lock_guard lock(m_mutex);
    m_handler = std::move(handler);
  }
  void set_body(std::string body, int status = 200) {
    set([body = std::move(body), status](const net::Request&) { return net::Response::json(status, body); });
  }
  void allow() { set_body(R"({"isAllowed":true,"gatewayAppId":"gate","reason":""})"); }
  void deny(const std::string& reason) {
    set_body(base::format(R"({{"isAllowed":false,"gatewayAppId":"","reason":"{}"}})", reason));
  }
  std::vector<net::Request> requests() const {
    const std::lock_guard lock(m_mutex);
    return m_requests;
  }

 private:
  net::Response answer(const net::Request& request) {
    std::function<net::Response(const net::Request&)> handler;
    {
      const std::lock_guard lock(m_mutex);
      m_requests.push_back(request);
      handler = m_handler;
    }
    if (request.method == "GET" && request.path == "/") {
      return net::Response::json(
          200, R"({"status":"ok","kmsContractAddr":"","ethRpcUrl":"","gatewayAppId":"","chainId":0,)"
               R"("appImplementation":""})");
    }
    return handler ? handler(request) : net::Response::text(500, "no answer chosen");
  }

  mutable std::mutex m_mutex;
  std::function<net::Response(const net::Request&)> m_handler;
  std::vector<net::Request> m_requests;
  std::uint16_t m_port = 0;
  net::Server m_server;  // last: it stops before the rest goes
};

inline const base::Bytes k_seed(32, 0x5e);
inline const base::Bytes k_app_a(20, 0xaa);
inline const base::Bytes k_app_b(20, 0xbb);
inline const base::Bytes k_image_1(32, 0x01);
inline const base::Bytes k_image_2(32, 0x02);

inline std::string vm_config(const base::Bytes& os_image_hash) {
  return base::format(R"({{"os_image_hash":"{}","cpu_count":1}})", base::to_hex(os_image_hash));
}

inline std::vector<attest::RuntimeEvent> launch_of(const base::Bytes& app_id) {
  return {{"system-preparing", {}},
          {"app-id", app_id},
          {"compose-hash", base::Bytes(32, 0xc0)},
          {"instance-id", base::Bytes(20, 0x22)},
          {"boot-mr-done", {}}};
}

inline attest::SimulatedEvidence machine(const base::Bytes& app_id, const base::Bytes& image = k_image_1,
                                         const base::Bytes& seed = k_seed) {
  return {attest::SimulatedPlatform::from_seed(seed).value(), vm_config(image),
          [app_id] { return launch_of(app_id); }};
}

inline attest::TrustAnchors anchors() {
  static const auto platform = attest::SimulatedPlatform::from_seed(k_seed).value();
  return attest::TrustAnchors::insecure_simulated(platform.root_pem()).value();
}

}  // namespace dstack::kms::fakes
