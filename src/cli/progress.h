// Progress of something long on stderr: one line per step with the seconds since the start; on a terminal
// also a live line that is rewritten in place, elsewhere a sign of life now and then.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "cli/streams.h"

namespace dstack::cli {

using SteadyClock = std::function<std::chrono::steady_clock::time_point()>;

class Progress {
 public:
  // `quiet` prints nothing (JSON output).
  explicit Progress(const Streams& streams, bool quiet = false, SteadyClock clock = {});
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // "[  3.2s] text".
  void step(std::string_view text);
  // What is being waited for. Call it often: a terminal gets a spinner and the seconds, anything else one
  // line when `text` is new and one every 15 s.
  void waiting(std::string_view text);
  // How much of `what` is here. Call it often: a terminal gets a bar with rate and time left, anything else a
  // line for every quarter, or every 50 MiB while the total is not known.
  void bytes(std::string_view what, std::uint64_t done, std::optional<std::uint64_t> total);
  // "[ok]  text", "[!]   text", "[--]  text": the outcome of a step.
  void ok(std::string_view text);
  void warn(std::string_view text);
  void skip(std::string_view text);

  std::chrono::duration<double> elapsed() const;

 private:
  void line(std::string_view prefix, std::string_view text);
  void clear_live();
  void draw_bar(std::uint64_t done, std::optional<std::uint64_t> total);

  const Streams& m_streams;
  bool m_quiet;
  SteadyClock m_clock;
  std::chrono::steady_clock::time_point m_start;
  std::chrono::steady_clock::time_point m_last_sign;
  std::string m_waiting;
  bool m_live = false;
  unsigned m_frame = 0;
  // Of bytes(): what it was called for, from where on and since when, and what was last shown.
  std::string m_bytes_of;
  std::uint64_t m_bytes_first = 0;
  std::uint64_t m_bytes_last = 0;
  std::uint64_t m_bytes_mark = 0;
  std::chrono::steady_clock::time_point m_bytes_since;
  std::optional<std::chrono::steady_clock::time_point> m_bytes_drawn;
};

// "4.2s", "1m 05s".
std::string format_seconds(std::chrono::duration<double> seconds);

}  // namespace dstack::cli
