#include "cli/progress.h"

#include <ostream>

#include "base/format.h"
#include "base/log.h"

namespace dstack::cli {
namespace {

using std::chrono::steady_clock;

constexpr std::string_view k_frames[] = {"|", "/", "-", "\\"};
constexpr auto k_sign_of_life = std::chrono::seconds(15);

}  // namespace

Progress::Progress(const Streams& streams, bool quiet, SteadyClock clock)
    : m_streams(streams),
      m_quiet(quiet),
      m_clock(clock ? std::move(clock) : SteadyClock(&steady_clock::now)),
      m_start(m_clock()),
      m_last_sign(m_start) {}

Progress::~Progress() {
  clear_live();
}

std::chrono::duration<double> Progress::elapsed() const {
  return m_clock() - m_start;
}

void Progress::clear_live() {
  if (m_live) {
    m_streams.err << "\r\x1b[K" << std::flush;
    m_live = false;
  }
}

void Progress::line(std::string_view prefix, std::string_view text) {
  if (m_quiet) {
    return;
  }
  clear_live();
  m_streams.err << prefix << ' ' << base::escape_control(text) << std::endl;
  m_last_sign = m_clock();
}

void Progress::step(std::string_view text) {
  m_waiting = text;
  line(base::format("[{:>5.1f}s]", elapsed().count()), text);
}
void Progress::ok(std::string_view text) {
  line(m_streams.color ? "\x1b[32m[ok]\x1b[0m " : "[ok] ", text);
}
void Progress::warn(std::string_view text) {
  line(m_streams.color ? "\x1b[33m[!]\x1b[0m  " : "[!]  ", text);
}
void Progress::skip(std::string_view text) {
  line("[--] ", text);
}

void Progress::waiting(std::string_view text) {
  if (m_quiet) {
    return;
  }
  if (m_streams.err_is_terminal) {
    m_streams.err << "\r\x1b[K" << k_frames[m_frame++ % std::size(k_frames)] << ' '
                  << base::escape_control(text) << " (" << format_seconds(elapsed()) << ")" << std::flush;
    m_live = true;
    return;
  }
  if (text != m_waiting || m_clock() - m_last_sign >= k_sign_of_life) {
    step(base::format("waiting: {}", text));
    m_waiting = text;
  }
}

std::string format_seconds(std::chrono::duration<double> seconds) {
  if (seconds.count() < 59.95) {
    return base::format("{:.1f}s", seconds.count());
  }
  const auto whole = static_cast<long>(seconds.count() + 0.5);
  return base::format("{}m {:02}s", whole / 60, whole % 60);
}

}  // namespace dstack::cli
