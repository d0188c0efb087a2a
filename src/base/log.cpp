#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>

namespace dstack::base {

namespace {

std::atomic<LogLevel> g_level = LogLevel::info;
std::string g_program = "dstack";

constexpr std::size_t k_max_line = 4096;

const char* name(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return "debug";
    case LogLevel::info:
      return "info ";
    case LogLevel::warn:
      return "warn ";
    case LogLevel::error:
      return "error";
  }
  return "?";
}

}  // namespace

void log_setup(std::string_view program, LogLevel level) {
  g_program = program;
  g_level = level;
}

LogLevel parse_log_level(std::string_view text, LogLevel otherwise) {
  for (const auto level : {LogLevel::debug, LogLevel::info, LogLevel::warn, LogLevel::error}) {
    if (text == std::string_view(name(level)).substr(0, text.size()) && text.size() >= 4) {
      return level;
    }
  }
  return otherwise;
}

std::string escape_control(std::string_view text, bool keep_newlines) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if ((u < 0x20 && c != '\t' && !(keep_newlines && c == '\n')) || u == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", u);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out;
}

void log(LogLevel level, std::string_view line) {
  if (level < g_level.load()) {
    return;
  }
  const auto now = std::chrono::system_clock::now();
  const auto seconds = std::chrono::system_clock::to_time_t(now);
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm utc = {};
  gmtime_r(&seconds, &utc);
  char stamp[64];
  const auto length = std::strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(stamp + length, sizeof stamp - length, ".%03dZ ", static_cast<int>(milliseconds));
  std::string out = stamp;
  out += name(level);
  out += ' ';
  out += g_program;
  out += ": ";
  out += escape_control(line.substr(0, k_max_line));
  out += '\n';
  // One write per line, so that lines of several threads and processes do not mix.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, out.data(), out.size());
}

}  // namespace dstack::base
