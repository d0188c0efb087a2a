#include "vmm/vm_logs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <thread>

#include "base/format.h"

namespace dstack::vmm {

using base::Code;
using base::fail_errno;
using base::Fd;
using base::Result;

namespace {

constexpr std::size_t k_chunk = 8 * 1024;
constexpr std::uint64_t k_max_scan = 32 * 1024 * 1024;
constexpr std::int64_t k_heartbeat_ms = 60'000;

std::uint64_t size_of(const Fd& fd) {
  struct stat info{};
  return fd && ::fstat(fd.get(), &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

Result<> append_text(const fs::path& path, const std::string& text) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return fail_errno(Code::io, base::format("cannot write {}", path.native()), errno);
  }
  return {};
}

Result<> copy_content(const Fd& from, const fs::path& to) {
  const Fd out(::open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  std::array<char, 64 * 1024> buffer;
  std::uint64_t offset = 0;
  while (out) {
    const auto n = ::pread(from.get(), buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n == 0) {
      return {};
    }
    if (n < 0 || ::write(out.get(), buffer.data(), static_cast<std::size_t>(n)) != n) {
      break;
    }
    offset += static_cast<std::uint64_t>(n);
  }
  return fail_errno(Code::io, base::format("cannot write {}", to.native()), errno);
}

std::int64_t steady_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

fs::path numbered(const fs::path& path, unsigned number) {
  return path.native() + base::format(".{}", number);
}

// Where the last `lines` lines begin. A line break at the very end does not begin a line.
std::uint64_t tail_offset(const Fd& fd, std::uint64_t lines) {
  const auto size = size_of(fd);
  if (lines == 0) {
    return size;
  }
  std::array<char, k_chunk> buffer;
  std::uint64_t position = size;
  std::uint64_t seen = 0;
  while (position > 0 && size - position < k_max_scan) {
    const auto length = std::min<std::uint64_t>(buffer.size(), position);
    const auto n = ::pread(fd.get(), buffer.data(), length, static_cast<off_t>(position - length));
    if (n != static_cast<ssize_t>(length)) {
      break;
    }
    for (std::uint64_t i = length; i > 0; --i) {
      const auto at = position - length + i;  // offset behind this character
      if (buffer[i - 1] == '\n' && at != size && ++seen == lines) {
        return at;
      }
    }
    position -= length;
  }
  return position;
}

}  // namespace

Result<> rotate_log(const fs::path& path, unsigned max_backups) {
  const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) {
    return errno == ENOENT ? Result<>()
                           : fail_errno(Code::io, base::format("cannot open {}", path.native()), errno);
  }
  if (size_of(fd) == 0) {
    return {};
  }
  for (unsigned number = max_backups; number > 1; --number) {
    ::rename(numbered(path, number - 1).c_str(), numbered(path, number).c_str());
  }
  if (max_backups > 0) {
    DS_CHECK(copy_content(fd, numbered(path, 1)));
  }
  if (::ftruncate(fd.get(), 0) != 0) {
    return fail_errno(Code::io, base::format("cannot truncate {}", path.native()), errno);
  }
  return {};
}

Result<> begin_boot_log(const fs::path& path, unsigned max_backups, std::int64_t wall_ms) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    return {};
  }
  DS_CHECK(rotate_log(path, max_backups));
  return append_text(path, base::format("\n===== boot @ {} =====\n", rfc3339(wall_ms)));
}

Result<> bound_log(const fs::path& path, const LogPolicy& policy, std::int64_t wall_ms) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error || policy.max_bytes == 0 || size <= policy.max_bytes) {
    return {};
  }
  DS_CHECK(rotate_log(path, policy.max_backups));
  if (policy.max_backups == 0) {
    return append_text(path,
                       base::format("\n===== discarded {} bytes @ {} =====\n\n", size, rfc3339(wall_ms)));
  }
  return append_text(path, base::format("\n===== rotated {} bytes to {} @ {} =====\n\n", size,
                                        numbered(path, 1).filename().native(), rfc3339(wall_ms)));
}

std::string rfc3339(std::int64_t wall_ms) {
  const std::time_t seconds = wall_ms / 1000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  std::array<char, 32> text;
  const auto n = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text.data(), n};
}

std::string AnsiStripper::feed(std::string_view chunk) {
  std::string out;
  out.reserve(chunk.size());
  for (const char c : chunk) {
    const auto byte = static_cast<unsigned char>(c);
    switch (m_state) {
      case State::text:
        if (c == '\x1b') {
          m_state = State::escape;
        } else if (byte >= 0x20 ? byte != 0x7f : c == '\n' || c == '\t') {
          out += c;
        }
        break;
      case State::escape:
        if (c == '[') {
          m_state = State::control_sequence;
        } else if (c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_') {
          m_state = State::string;
        } else if (c == '(' || c == ')' || c == '#' || c == '%' || c == ' ') {
          m_state = State::charset;
        } else {
          m_state = c == '\x1b' ? State::escape : State::text;
        }
        break;
      case State::control_sequence:
        if (byte >= 0x40 && byte <= 0x7e) {
          m_state = State::text;
        } else if (c == '\n') {
          // Broken off: a line of the log must not vanish with it.
          m_state = State::text;
          out += c;
        }
        break;
      case State::string:
        if (c == '\a') {
          m_state = State::text;
        } else if (c == '\x1b') {
          m_state = State::string_escape;
        } else if (c == '\n') {
          m_state = State::text;
          out += c;
        }
        break;
      case State::string_escape:
      case State::charset:
        m_state = State::text;
        break;
    }
  }
  return out;
}

std::string Utf8Repair::feed(std::string_view chunk) {
  m_pending += chunk;
  std::string out;
  std::size_t at = 0;
  while (at < m_pending.size()) {
    const auto first = static_cast<unsigned char>(m_pending[at]);
    std::size_t length = 1;
    std::uint32_t low = 0;
    if (first >= 0xc2 && first <= 0xdf) {
      length = 2;
    } else if ((first & 0xf0U) == 0xe0) {
      length = 3;
      low = 0x800;
    } else if (first >= 0xf0 && first <= 0xf4) {
      length = 4;
      low = 0x10000;
    } else if (first >= 0x80) {
      length = 0;
    }
    std::uint32_t value = length > 1 ? first & (0x7fU >> length) : first;
    bool valid = length > 0;
    std::size_t i = 1;
    for (; valid && i < length && at + i < m_pending.size(); ++i) {
      const auto next = static_cast<unsigned char>(m_pending[at + i]);
      valid = (next & 0xc0U) == 0x80;
      value = (value << 6U) | (next & 0x3fU);
    }
    if (valid && i < length) {
      break;  // the rest is still to come
    }
    valid = valid && value >= low && value <= 0x10ffff && (value < 0xd800 || value > 0xdfff);
    if (valid) {
      out.append(m_pending, at, length);
      at += length;
    } else {
      out += "\xef\xbf\xbd";
      at += 1;
    }
  }
  m_pending.erase(0, at);
  return out;
}

std::string Utf8Repair::finish() {
  std::string out;
  for (std::size_t i = 0; i < m_pending.size(); ++i) {
    out += "\xef\xbf\xbd";
  }
  m_pending.clear();
  return out;
}

LogTail::LogTail(fs::path path, TailOptions options)
    : m_path(std::move(path)), m_options(options), m_silent_since(steady_ms()) {
  open();
}

void LogTail::open() {
  m_fd = Fd(::open(m_path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (m_fd) {
    m_offset = tail_offset(m_fd, m_options.lines);
  }
}

std::string LogTail::read_chunk() {
  if (!m_fd) {
    open();
    if (!m_fd) {
      return {};
    }
    m_offset = 0;
  }
  const auto size = size_of(m_fd);
  if (size < m_offset) {
    m_offset = 0;
  }
  std::string buffer(std::min<std::uint64_t>(k_chunk, size - m_offset), '\0');
  if (buffer.empty()) {
    return {};
  }
  const auto n = ::pread(m_fd.get(), buffer.data(), buffer.size(), static_cast<off_t>(m_offset));
  buffer.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  // Whole lines where there are any.
  if (const auto end = buffer.rfind('\n'); end != std::string::npos) {
    buffer.resize(end + 1);
  }
  m_offset += buffer.size();
  return buffer;
}

std::optional<std::string> LogTail::next(int wait_ms) {
  if (m_finished) {
    return std::nullopt;
  }
  auto raw = read_chunk();
  for (int waited = 0; raw.empty() && m_options.follow && waited < wait_ms; waited += 50) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    raw = read_chunk();
  }
  if (!raw.empty()) {
    m_silent_since = steady_ms();
    return m_repair.feed(m_options.ansi ? raw : m_stripper.feed(raw));
  }
  if (!m_options.follow) {
    m_finished = true;
    return m_repair.finish();
  }
  if (steady_ms() - m_silent_since >= k_heartbeat_ms) {
    m_silent_since = steady_ms();
    return "[vmm heartbeat]\n";
  }
  return "";
}

}  // namespace dstack::vmm
