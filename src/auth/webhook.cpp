#include "auth/webhook.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/decision.h"
#include "base/bytes.h"
#include "base/format.h"

namespace dstack::auth {

namespace {

using base::Code;
using std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

std::string quote(const std::string& text) {
  const bool plain =
      std::ranges::all_of(text, [](char c) { return c >= 0x20 && c <= 0x7e && c != '"' && c != '\\'; });
  if (plain) {
    return '"' + text + '"';
  }
  return dump(Json(text));
}

bool has_bearer(const net::Request& request, const std::string& token) {
  const auto header = request.headers.get("Authorization").value_or("");
  constexpr std::string_view k_scheme = "Bearer ";
  return header.size() > k_scheme.size() &&
         net::equal_ignoring_case(header.substr(0, k_scheme.size()), k_scheme) &&
         base::equal_constant_time(base::as_bytes(base::trim(header.substr(k_scheme.size()))),
                                   base::as_bytes(token));
}

}  // namespace

Webhook::Webhook(AllowlistCache cache, std::string bearer, DecisionLog log)
    : m_cache(std::move(cache)), m_bearer(std::move(bearer)), m_log(std::move(log)) {}

net::ServerOptions Webhook::server_options() {
  net::ServerOptions options;
  options.workers = 0;
  options.max_body = app::k_max_boot_info;
  options.max_header = 16 * 1024;
  options.header_timeout = std::chrono::seconds(5);
  options.body_timeout = std::chrono::seconds(5);
  options.idle_timeout = std::chrono::seconds(60);
  options.max_connections = 512;
  // Whoever holds them all, the KMS still gets through: a question is asked and answered in milliseconds.
  options.give_way_after = std::chrono::milliseconds(250);
  return options;
}

net::Response Webhook::refuse(int status, const std::string& text) {
  m_metrics.refused(status);
  return net::Response::json(status, dump(Json{{"error", text}}));
}

net::Response Webhook::handle(const net::Request& request) {
  if (!m_bearer.empty() && !has_bearer(request, m_bearer)) {
    auto response = refuse(401, "a bearer token is needed");
    response.headers.set("WWW-Authenticate", "Bearer");
    return response;
  }
  const bool app = request.path == "/bootAuth/app";
  const bool kms = request.path == "/bootAuth/kms";
  const bool page = request.path == "/" || request.path == "/health" || request.path == "/metrics";
  if (!app && !kms && !page) {
    return refuse(404, "no such path");
  }
  const bool reads = request.method == "GET" || request.method == "HEAD";
  if (page ? !reads : request.method != "POST") {
    auto response = refuse(405, page ? "only GET is understood here" : "only POST is understood here");
    response.headers.set("Allow", page ? "GET, HEAD" : "POST");
    return response;
  }
  if (!page) {
    return decide(request, kms);
  }
  if (request.path == "/health") {
    return health();
  }
  if (request.path == "/metrics") {
    const auto snapshot = m_cache.get();
    const auto& list = snapshot->allowlist;
    auto response = net::Response::text(200, m_metrics.text({list.has_value(), list ? list->apps.size() : 0,
                                                             m_cache.loads(), m_log.suppressed()}));
    response.headers.set("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    return response;
  }
  return info();
}

net::Response Webhook::decide(const net::Request& request, bool kms) {
  const auto begin = steady_clock::now();
  const auto boot = app::parse_boot_info(request.body);
  if (!boot) {
    const Code code = boot.error().code;
    return refuse(code == Code::too_large        ? 413
                  : code == Code::boot_info_type ? 422
                                                 : 400,
                  boot.error().what());
  }
  const auto snapshot = m_cache.get();
  const app::Allowlist* list = snapshot->allowlist ? &*snapshot->allowlist : nullptr;
  if (list != nullptr) {
    if (const auto refusal = app::incomplete(*list, *boot); !refusal.empty()) {
      return refuse(400, refusal);
    }
  }
  app::Decision decision = kms ? app::decide_kms(list, *boot) : app::decide_app(list, *boot);
  std::string counted = decision.reason;
  if (list == nullptr) {
    decision.allowed = false;
    decision.reason = ("allow-list cannot be used: " + snapshot->error.what()).substr(0, 500);
    counted = "allow-list cannot be used";
  }
  const auto elapsed = steady_clock::now() - begin;
  const std::string_view target = kms ? "kms" : "app";
  m_metrics.decision(target, decision.allowed, counted, std::chrono::duration<double>(elapsed).count());
  m_log.write(target, *boot, decision, std::chrono::duration_cast<std::chrono::microseconds>(elapsed));
  std::string answer =
      decision.allowed ? R"({"isAllowed":true,"gatewayAppId":)" : R"({"isAllowed":false,"gatewayAppId":)";
  answer += quote(decision.gateway_app_id);
  answer += R"(,"reason":)";
  answer += quote(decision.reason);
  answer += '}';
  return net::Response::json(200, std::move(answer));
}

net::Response Webhook::info() {
  const auto snapshot = m_cache.get();
  static const app::Allowlist k_none;
  const app::Allowlist& list = snapshot->allowlist ? *snapshot->allowlist : k_none;
  if (list.strict || m_cache.force_strict()) {
    return net::Response::json(200, dump(Json{{"status", "ok"},
                                              {"kmsContractAddr", list.kms_contract_addr},
                                              {"gatewayAppId", list.gateway_app_id},
                                              {"chainId", list.chain_id},
                                              {"appAuthImplementation", list.app_implementation},
                                              {"appImplementation", list.app_implementation}}));
  }
  // Constants: the KMS asks for them once at its start, and must get them also while the file is broken.
  return net::Response::json(200, dump(Json{{"status", "ok"},
                                            {"kmsContractAddr", ""},
                                            {"ethRpcUrl", ""},
                                            {"gatewayAppId", ""},
                                            {"chainId", 0},
                                            {"appImplementation", ""}}));
}

net::Response Webhook::health() {
  const auto snapshot = m_cache.get();
  if (snapshot->allowlist) {
    return net::Response::json(200, R"({"status":"ok"})");
  }
  return net::Response::json(503, dump(Json{{"status", "error"},
                                            {"code", base::to_string(snapshot->error.code)},
                                            {"error", snapshot->error.what()},
                                            {"fix", snapshot->error.fix}}));
}

}  // namespace dstack::auth
