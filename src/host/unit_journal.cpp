#include "host/unit_journal.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-journal.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string_view>

#include "base/fd.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::size_t k_longest_line = 2000;

struct JournalClose {
  void operator()(sd_journal* journal) const { sd_journal_close(journal); }
};
using JournalHandle = std::unique_ptr<sd_journal, JournalClose>;

JournalHandle open_journal(int& r) {
  sd_journal* raw = nullptr;
  r = sd_journal_open(&raw, SD_JOURNAL_LOCAL_ONLY | SD_JOURNAL_SYSTEM);
  return JournalHandle(r < 0 ? nullptr : raw);
}

int match(sd_journal* journal, const std::string& field) {
  return sd_journal_add_match(journal, field.data(), field.size());
}

// journald cannot tell the invocation of a process that was gone before it looked, so a line without one
// counts.
bool of_another_invocation(sd_journal* journal, const std::string& invocation) {
  const void* data = nullptr;
  std::size_t size = 0;
  if (invocation.empty() || sd_journal_get_data(journal, "_SYSTEMD_INVOCATION_ID", &data, &size) < 0) {
    return false;
  }
  return std::string_view(static_cast<const char*>(data), size) != "_SYSTEMD_INVOCATION_ID=" + invocation;
}

// Only lines of `invocation`, unless that is empty.
std::vector<std::string> last_lines(sd_journal* journal, std::size_t limit,
                                    const std::string& invocation = {}) {
  std::vector<std::string> lines;
  if (sd_journal_seek_tail(journal) < 0) {
    return lines;
  }
  while (lines.size() < limit && sd_journal_previous(journal) > 0) {
    const void* data = nullptr;
    std::size_t size = 0;
    if (of_another_invocation(journal, invocation) ||
        sd_journal_get_data(journal, "MESSAGE", &data, &size) < 0) {
      continue;
    }
    std::string_view text(static_cast<const char*>(data), size);
    text.remove_prefix(std::min(text.size(), std::string_view("MESSAGE=").size()));
    lines.push_back(base::escape_control(text.substr(0, k_longest_line)));
  }
  std::ranges::reverse(lines);
  return lines;
}

// Has journald take in all that was sent to it before (io.systemd.Journal.Synchronize, what journalctl --sync
// does).
void synchronize(std::chrono::milliseconds limit) {
  const base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  constexpr std::string_view k_socket = "/run/systemd/journal/io.systemd.journal";
  static_assert(k_socket.size() < sizeof address.sun_path);
  k_socket.copy(address.sun_path, k_socket.size());
  // A varlink message ends with a NUL.
  std::string request = R"({"method":"io.systemd.Journal.Synchronize"})";
  request += '\0';
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
          static_cast<ssize_t>(request.size())) {
    return;
  }
  pollfd answer = {fd.get(), POLLIN, 0};
  ::poll(&answer, 1, static_cast<int>(limit.count()));
}

}  // namespace

Result<std::vector<std::string>> unit_log(const std::string& unit, std::size_t limit) {
  int r = 0;
  const auto journal = open_journal(r);
  if (!journal) {
    return base::fail_errno(Code::service_manager, "cannot open the journal", -r, "run the command as root");
  }
  if (match(journal.get(), "_SYSTEMD_UNIT=" + unit) < 0 || sd_journal_add_disjunction(journal.get()) < 0 ||
      match(journal.get(), "UNIT=" + unit) < 0 || match(journal.get(), "_PID=1") < 0) {
    return base::fail(Code::service_manager, base::format("cannot read the journal of {}", unit));
  }
  return last_lines(journal.get(), limit);
}

std::vector<std::string> failed_start_log(const std::string& unit, const std::string& invocation,
                                          std::size_t limit, std::chrono::milliseconds patience) {
  if (invocation.empty()) {
    return {};
  }
  synchronize(patience);
  int r = 0;
  const auto journal = open_journal(r);
  if (!journal || match(journal.get(), "_SYSTEMD_UNIT=" + unit) < 0) {
    return {};
  }
  return last_lines(journal.get(), limit, invocation);
}

}  // namespace dstack::host
