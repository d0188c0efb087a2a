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
      m_now(now ? std::move(now) : Clock([] { return std::chrono::steady_clock::now(); })) {
  m_allows.last = m_denies.last = m_now();
}

void DecisionLog::write(std::string_view target, const app::BootInfo& boot, const app::Decision& decision,
                        std::chrono::microseconds latency) {
  Budget& budget = decision.allowed ? m_allows : m_denies;
  const auto now = m_now();
  budget.lines = std::min(
      k_burst, budget.lines + std::chrono::duration<double>(now - budget.last).count() * k_per_second);
  budget.last = now;
  if (budget.lines < 1) {
    ++m_suppressed;
    ++budget.unreported;
    return;
  }
  budget.lines -= 1;
  auto line = decision_line(target, boot, decision, latency);
  if (budget.unreported > 0) {
    line += base::format(" suppressed={}", budget.unreported);
    budget.unreported = 0;
  }
  m_sink(line);
}

}  // namespace dstack::auth
