// The question whether a boot may have its keys, put to a webhook (spec/guest-kms.md section 1.9).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "attest/verifier.h"
#include "base/result.h"
#include "net/client.h"

namespace dstack::kms {

// BootInfo JSON: camelCase, bytes as bare lower hex.
std::string boot_info_json(const attest::Verdict& verdict);

struct Permission {
  bool allowed = false;
  std::string gateway_app_id;
  std::string reason;
};
// isAllowed (bool), gatewayAppId and reason (text) must all be there, once and with these types.
// Code::kms_webhook.
base::Result<Permission> parse_permission(std::string_view json);

struct WebhookInfo {
  std::string contract_address;
  std::string gateway_app_id;
  std::uint64_t chain_id = 0;
  std::string implementation;
};
base::Result<WebhookInfo> parse_webhook_info(std::string_view json);

class Webhook {
 public:
  // `url` as Config checked it.
  explicit Webhook(net::Endpoint endpoint, std::chrono::milliseconds timeout = std::chrono::seconds(20));

  // POST bootAuth/app or bootAuth/kms. Everything but a well-formed 2xx answer is an error, and with it a
  // refusal.
  base::Result<Permission> ask_app(const attest::Verdict& verdict) const {
    return ask("/bootAuth/app", verdict);
  }
  base::Result<Permission> ask_kms(const attest::Verdict& verdict) const {
    return ask("/bootAuth/kms", verdict);
  }
  // GET of the URL itself.
  base::Result<WebhookInfo> info() const;

 private:
  base::Result<Permission> ask(const std::string& path, const attest::Verdict& verdict) const;
  base::Result<std::string> exchange(net::Request request) const;
  net::Client m_client;
};

}  // namespace dstack::kms
