#include "kms/webhook.h"

#include <nlohmann/json.hpp>

#include "app/strict_json.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::kms {
namespace {

using base::Code;
using base::fail;
using base::format;
using base::Result;
using nlohmann::ordered_json;

constexpr std::size_t k_max_answer = 64 * 1024;
constexpr std::size_t k_shown = 512;
constexpr const char* k_fix = "look at the log of the webhook and check core.auth_api.webhook.url";

net::ClientOptions client_options(std::chrono::milliseconds timeout) {
  net::ClientOptions options;
  options.connect_timeout = timeout;
  options.timeout = timeout;
  options.max_body = k_max_answer;
  return options;
}

Result<ordered_json> parse_answer(std::string_view text) {
  auto json = app::parse_json_strict(text, {.max_bytes = k_max_answer, .max_depth = 8});
  if (!json) {
    auto error = std::move(json).error();
    error.code = Code::kms_webhook;
    error.fix = k_fix;
    return fail(std::move(error), "the auth webhook's answer is not JSON");
  }
  if (!json->is_object()) {
    return fail(Code::kms_webhook, "the auth webhook's answer is not a JSON object", k_fix);
  }
  return *std::move(json);
}

std::unexpected<base::Error> bad_field(const char* key) {
  return fail(Code::kms_webhook, format("the auth webhook's answer has no proper '{}'", key), k_fix);
}

Result<std::string> text_field(const ordered_json& json, const char* key) {
  const auto at = json.find(key);
  if (at == json.end() || !at->is_string()) {
    return bad_field(key);
  }
  return at->get<std::string>();
}

}  // namespace

std::string boot_info_json(const attest::Verdict& verdict) {
  const auto& who = verdict.identity;
  const ordered_json json = {{"teeVariant", verdict.tee_variant},
                             {"mrAggregated", base::to_hex(who.mr_aggregated)},
                             {"osImageHash", base::to_hex(who.os_image_hash)},
                             {"mrSystem", base::to_hex(who.mr_system)},
                             {"appId", base::to_hex(who.app_id)},
                             {"composeHash", base::to_hex(who.compose_hash)},
                             {"instanceId", base::to_hex(who.instance_id)},
                             {"deviceId", base::to_hex(who.device_id)},
                             {"keyProviderInfo", base::to_hex(who.key_provider_info)},
                             {"tcbStatus", verdict.tcb_status},
                             {"advisoryIds", verdict.advisory_ids}};
  return json.dump();
}

Result<Permission> parse_permission(std::string_view text) {
  DS_TRY(auto json, parse_answer(text));
  const auto allowed = json.find("isAllowed");
  if (allowed == json.end() || !allowed->is_boolean()) {
    return bad_field("isAllowed");
  }
  Permission out;
  out.allowed = allowed->get<bool>();
  DS_TRY(out.gateway_app_id, text_field(json, "gatewayAppId"));
  DS_TRY(out.reason, text_field(json, "reason"));
  return out;
}

Result<WebhookInfo> parse_webhook_info(std::string_view text) {
  DS_TRY(auto json, parse_answer(text));
  WebhookInfo out;
  DS_TRY(auto status, text_field(json, "status"));
  DS_TRY(out.contract_address, text_field(json, "kmsContractAddr"));
  DS_TRY(out.gateway_app_id, text_field(json, "gatewayAppId"));
  DS_TRY(out.implementation, text_field(json, "appImplementation"));
  const auto chain = json.find("chainId");
  if (chain == json.end() || !chain->is_number_unsigned()) {
    return bad_field("chainId");
  }
  out.chain_id = chain->get<std::uint64_t>();
  return out;
}

Webhook::Webhook(net::Endpoint endpoint, std::chrono::milliseconds timeout)
    : m_client(std::move(endpoint), client_options(timeout)) {}

Result<std::string> Webhook::exchange(net::Request request) const {
  request.headers.set("User-Agent", "dstack-kms/" DSTACK_VERSION);
  auto response = m_client.send(request);
  if (!response) {
    return fail(std::move(response).error(),
                format("the auth webhook {} cannot be asked", m_client.endpoint().to_string()));
  }
  if (response->status < 200 || response->status > 299) {
    return fail(Code::kms_webhook,
                format("the auth webhook answers with status {}: {}", response->status,
                       base::escape_control(std::string_view(response->body).substr(0, k_shown))),
                k_fix);
  }
  return std::move(response->body);
}

Result<Permission> Webhook::ask(const std::string& path, const attest::Verdict& verdict) const {
  net::Request request;
  request.method = "POST";
  request.path = path;
  request.headers.set("Content-Type", "application/json");
  request.body = boot_info_json(verdict);
  DS_TRY(auto answer, exchange(std::move(request)));
  return parse_permission(answer);
}

Result<WebhookInfo> Webhook::info() const {
  DS_TRY(auto answer, exchange(net::Request{}));
  return parse_webhook_info(answer);
}

}  // namespace dstack::kms
