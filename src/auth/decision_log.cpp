#include "auth/decision_log.h"

#include <algorithm>
#include <cctype>

#include "base/format.h"
#include "base/log.h"

namespace dstack::auth {

namespace {

std::string identifier(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 80)) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
    out += plain ? c : '?';
  }
  return out.empty() ? "-" : out;
}

}  // namespace

std::string decision_line(std::string_view target, const app::BootInfo& boot, const app::Decision& decision,
                          std::chrono::microseconds latency) {
  std::string reason = decision.reason.substr(0, 300);
  std::ranges::replace(reason, '"', '\'');
  return base::format(
      "decision={} target={} app={} compose={} image={} mr={} device={} instance={} reason=\"{}\" us={}",
      decision.allowed ? "allow" : "deny", target, identifier(boot.app_id), identifier(boot.compose_hash),
      identifier(boot.os_image_hash), identifier(boot.mr_aggregated), identifier(boot.device_id),
      identifier(boot.instance_id), reason, latency.count());
}

DecisionLog::DecisionLog(Sink sink, Clock now)
    : m_sink(sink ? std::move(sink) : Sink([](std::string_view line) { base::log_info(line); })),
      m_now(now ? std::move(now) : Clock([] { return std::chrono::steady_clock::now(); })),
      m_last(m_now()) {}

void DecisionLog::write(std::string_view target, const app::BootInfo& boot, const app::Decision& decision,
                        std::chrono::microseconds latency) {
  const auto now = m_now();
  m_budget = std::min(k_burst, m_budget + std::chrono::duration<double>(now - m_last).count() * k_per_second);
  m_last = now;
  if (m_budget < 1) {
    ++m_suppressed;
    ++m_unreported;
    return;
  }
  m_budget -= 1;
  auto line = decision_line(target, boot, decision, latency);
  if (m_unreported > 0) {
    line += base::format(" suppressed={}", m_unreported);
    m_unreported = 0;
  }
  m_sink(line);
}

}  // namespace dstack::auth
