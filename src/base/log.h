// Log lines on stderr: "2026-01-02T03:04:05.678Z info  vmm: text". Never pass a secret.
#pragma once

#include <string>
#include <string_view>

namespace dstack::base {

enum class LogLevel { debug, info, warn, error };

// Lines below `level` are dropped; the default is info. `program` is the prefix.
void log_setup(std::string_view program, LogLevel level);
LogLevel parse_log_level(std::string_view text, LogLevel otherwise);
// Control characters in `line` are escaped, so that input cannot forge lines; one line is at most 4 KiB.
void log(LogLevel level, std::string_view line);

inline void log_debug(std::string_view line) {
  log(LogLevel::debug, line);
}
inline void log_info(std::string_view line) {
  log(LogLevel::info, line);
}
inline void log_warn(std::string_view line) {
  log(LogLevel::warn, line);
}
inline void log_error(std::string_view line) {
  log(LogLevel::error, line);
}

// Replaces control characters (ESC among them) by \xNN; for text from elsewhere that goes to a terminal or a
// log.
std::string escape_control(std::string_view text, bool keep_newlines = false);

}  // namespace dstack::base
