#include "auth/metrics.h"

#include "base/format.h"

namespace dstack::auth {

namespace {

std::string label(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

void family(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  out += base::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

}  // namespace

void Metrics::decision(std::string_view target, bool allowed, std::string_view reason, double seconds) {
  const std::tuple<std::string_view, std::string_view, std::string_view> key{
      target, allowed ? "allow" : "deny", reason};
  auto found = m_decisions.find(key);
  if (found == m_decisions.end()) {
    found = m_decisions.emplace(key, 0).first;
  }
  ++found->second;
  m_seconds += seconds;
  ++m_count;
}

void Metrics::refused(int status) {
  ++m_refused[status];
}

std::string Metrics::text(const State& state) const {
  std::string out;
  family(out, "dstack_auth_decisions_total", "counter", "Decisions by what asked, verdict and reason.");
  for (const auto& [key, count] : m_decisions) {
    const auto& [target, verdict, reason] = key;
    out += base::format("dstack_auth_decisions_total{{target=\"{}\",verdict=\"{}\",reason=\"{}\"}} {}\n",
                        label(target), verdict, label(reason), count);
  }
  family(out, "dstack_auth_decision_seconds", "summary", "Time from a complete request to its decision.");
  out += base::format("dstack_auth_decision_seconds_sum {:.6f}\ndstack_auth_decision_seconds_count {}\n",
                      m_seconds, m_count);
  family(out, "dstack_auth_refused_requests_total", "counter",
         "Requests without a decision, by HTTP status.");
  for (const auto& [status, count] : m_refused) {
    out += base::format("dstack_auth_refused_requests_total{{status=\"{}\"}} {}\n", status, count);
  }
  family(out, "dstack_auth_allowlist_usable", "gauge", "1 when the allow-list can be read and is valid.");
  out += base::format("dstack_auth_allowlist_usable {}\n", state.usable ? 1 : 0);
  family(out, "dstack_auth_allowlist_apps", "gauge", "Apps in the allow-list.");
  out += base::format("dstack_auth_allowlist_apps {}\n", state.apps);
  family(out, "dstack_auth_allowlist_loads_total", "counter", "How often the allow-list was read.");
  out += base::format("dstack_auth_allowlist_loads_total {}\n", state.loads);
  family(out, "dstack_auth_suppressed_log_lines_total", "counter",
         "Decisions that the log's rate limit left out.");
  out += base::format("dstack_auth_suppressed_log_lines_total {}\n", state.suppressed_log_lines);
  return out;
}

}  // namespace dstack::auth
