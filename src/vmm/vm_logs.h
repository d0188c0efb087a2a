// A VM's logs: bounded on disk, read by tail and follow (spec/host.md sections 4.5 and 4.14).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/config.h"

namespace dstack::vmm {

namespace fs = std::filesystem;

// Copies `path` to `path`.1 (and .1 to .2 and so on, up to max_backups) and truncates it in place: the writer
// keeps its descriptor, which must be in append mode. Missing and empty files are left alone.
base::Result<> rotate_log(const fs::path& path, unsigned max_backups);
// At a boot: rotates, then starts the log with a line that names the time.
base::Result<> begin_boot_log(const fs::path& path, unsigned max_backups, std::int64_t wall_ms);
// Rotates when the file is larger than the policy allows and leaves a line that says so.
base::Result<> bound_log(const fs::path& path, const LogPolicy& policy, std::int64_t wall_ms);

// "2026-01-02T03:04:05Z".
std::string rfc3339(std::int64_t wall_ms);

// Removes escape sequences and control characters, across chunk borders.
class AnsiStripper {
 public:
  std::string feed(std::string_view chunk);

 private:
  enum class State { text, escape, control_sequence, string, string_escape, charset };
  State m_state = State::text;
};

// Replaces what is not UTF-8 by U+FFFD, across chunk borders.
class Utf8Repair {
 public:
  std::string feed(std::string_view chunk);
  // What is left at the end.
  std::string finish();

 private:
  std::string m_pending;
};

struct TailOptions {
  std::uint64_t lines = 10'000;
  bool follow = false;
  bool ansi = false;  // keep escape sequences
};

// The last lines of a file, then, when following, what is appended to it. Notices truncation and files that
// appear later.
class LogTail {
 public:
  LogTail(fs::path path, TailOptions options);

  // The next chunk of at most 8 KiB; empty text = nothing new, nullopt = the end. When following it waits up
  // to `wait_ms` for something new and says "[vmm heartbeat]" once a minute.
  std::optional<std::string> next(int wait_ms = 200);

 private:
  void open();
  std::string read_chunk();

  fs::path m_path;
  TailOptions m_options;
  base::Fd m_fd;
  std::uint64_t m_offset = 0;
  bool m_finished = false;
  std::int64_t m_silent_since = 0;
  AnsiStripper m_stripper;
  Utf8Repair m_repair;
};

}  // namespace dstack::vmm
