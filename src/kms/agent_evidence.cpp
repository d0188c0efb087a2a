#include "kms/agent_evidence.h"

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/format.h"
#include "net/client.h"
#include "proto/agent_rpc.pb.h"
#include "rpc/client.h"

namespace dstack::kms {

using base::Code;
using base::fail;

base::Result<base::Bytes> AgentEvidence::attest(const attest::ReportData& report_data) {
  using Clock = std::chrono::steady_clock;
  DS_TRY(auto endpoint, net::Endpoint::parse(m_address));
  const rpc::Client client(net::Client(endpoint), "");
  dstack_guest::RawQuoteArgs request;
  request.set_report_data(report_data.data(), report_data.size());
  for (const auto deadline = Clock::now() + m_patience;;) {
    auto response = client.call<dstack_guest::AttestResponse>("Attest", request);
    if (response) {
      return base::to_bytes(std::string_view(response->attestation()));
    }
    if (response.error().code != Code::connect_failed || Clock::now() >= deadline) {
      auto error = std::move(response).error();
      if (error.fix.empty()) {
        error.fix = "mount the guest agent's socket into the container and check DSTACK_AGENT_ADDRESS";
      }
      return fail(std::move(error), base::format("the guest agent at {} gives no evidence", m_address));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

std::string agent_address() {
  if (const char* address = std::getenv("DSTACK_AGENT_ADDRESS"); address != nullptr && *address != '\0') {
    return address;
  }
  for (const char* path : {"/var/run/dstack/dstack.sock", "/var/run/dstack.sock", "/run/dstack.sock"}) {
    std::error_code error;
    if (std::filesystem::is_socket(path, error)) {
      return base::format("unix:{}", path);
    }
  }
  return "unix:/var/run/dstack.sock";
}

}  // namespace dstack::kms
