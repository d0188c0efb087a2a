#include "cli/progress.h"

#include <algorithm>
#include <cmath>
#include <ostream>

#include "base/format.h"
#include "base/log.h"

namespace dstack::cli {
namespace {

using std::chrono::steady_clock;

constexpr std::string_view k_frames[] = {"|", "/", "-", "\\"};
constexpr auto k_sign_of_life = std::chrono::seconds(15);
constexpr auto k_redraw = std::chrono::milliseconds(100);
constexpr double k_mib = 1048576.0;
constexpr std::uint64_t k_unknown_step = 50 * 1048576;
constexpr unsigned k_bar_width = 30;

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

void Progress::bytes(std::string_view what, std::uint64_t done, std::optional<std::uint64_t> total) {
  if (m_quiet) {
    return;
  }
  const auto step_of = [&](std::uint64_t n) {
    return total && *total > 0
               ? static_cast<std::uint64_t>(static_cast<double>(n) * 4 / static_cast<double>(*total))
               : n / k_unknown_step;
  };
  const auto now = m_clock();
  if (what != m_bytes_of || done < m_bytes_last) {
    m_bytes_of = what;
    m_bytes_first = done;
    m_bytes_mark = step_of(done);
    m_bytes_since = now;
    m_bytes_drawn.reset();
  }
  m_bytes_last = done;
  const bool complete = total && done >= *total;
  if (m_streams.err_is_terminal) {
    if (complete || !m_bytes_drawn || now - *m_bytes_drawn >= k_redraw) {
      m_bytes_drawn = now;
      draw_bar(done, total);
    }
    return;
  }
  if (step_of(done) == m_bytes_mark) {
    return;
  }
  m_bytes_mark = step_of(done);
  const auto mib = static_cast<double>(done) / k_mib;
  step(total ? base::format("{}: {} %, {:.1f} of {:.1f} MiB", what, m_bytes_mark * 25, mib,
                            static_cast<double>(*total) / k_mib)
             : base::format("{}: {:.1f} MiB", what, mib));
}

void Progress::draw_bar(std::uint64_t done, std::optional<std::uint64_t> total) {
  const double seconds = std::chrono::duration<double>(m_clock() - m_bytes_since).count();
  const double rate = seconds > 0.5 ? static_cast<double>(done - m_bytes_first) / seconds : 0;
  std::string text;
  if (total && *total > 0) {
    const double part = std::min(1.0, static_cast<double>(done) / static_cast<double>(*total));
    const auto full = static_cast<unsigned>(part * k_bar_width);
    text = base::format("[{}{}] {:3.0f} %  {:.1f}/{:.1f} MiB", std::string(full, '#'),
                        std::string(k_bar_width - full, '.'), part * 100, static_cast<double>(done) / k_mib,
                        static_cast<double>(*total) / k_mib);
  } else {
    text = base::format("{} {:.1f} MiB", k_frames[m_frame++ % std::size(k_frames)],
                        static_cast<double>(done) / k_mib);
  }
  if (rate > 0) {
    text += base::format("  {:.1f} MiB/s", rate / k_mib);
    if (total && done < *total) {
      text += "  " +
              format_seconds(std::chrono::duration<double>(static_cast<double>(*total - done) / rate)) +
              " left";
    }
  }
  m_streams.err << "\r\x1b[K" << text << std::flush;
  m_live = true;
}

std::string format_seconds(std::chrono::duration<double> seconds) {
  if (seconds.count() < 59.95) {
    return base::format("{:.1f}s", seconds.count());
  }
  const auto whole = std::lround(seconds.count());
  return base::format("{}m {:02}s", whole / 60, whole % 60);
}

}  // namespace dstack::cli
