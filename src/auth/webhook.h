// The KMS's authorisation webhook over HTTP (spec/host.md section 3.1; 3.2 with the strict profile).
#pragma once

#include <string>

#include "auth/allowlist_cache.h"
#include "auth/decision_log.h"
#include "auth/metrics.h"
#include "net/http.h"
#include "net/server.h"

namespace dstack::auth {

// Not thread-safe: one thread answers (net::ServerOptions::workers = 0), nothing blocks.
class Webhook {
 public:
  // `bearer`: every request must carry it, unless it is empty.
  explicit Webhook(AllowlistCache cache, std::string bearer = {}, DecisionLog log = DecisionLog());

  // GET /, GET /health, GET /metrics, POST /bootAuth/app, POST /bootAuth/kms.
  net::Response handle(const net::Request& request);

  // Limits and time-outs for a net::Server around handle().
  static net::ServerOptions server_options();

 private:
  net::Response decide(const net::Request& request, bool kms);
  net::Response info();
  net::Response health();
  net::Response refuse(int status, const std::string& text);

  AllowlistCache m_cache;
  std::string m_bearer;
  DecisionLog m_log;
  Metrics m_metrics;
};

}  // namespace dstack::auth
