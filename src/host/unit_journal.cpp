#include "host/unit_journal.h"

#include <systemd/sd-journal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string_view>

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

std::vector<std::string> last_lines(sd_journal* journal, std::size_t limit) {
  std::vector<std::string> lines;
  if (sd_journal_seek_tail(journal) < 0) {
    return lines;
  }
  while (lines.size() < limit && sd_journal_previous(journal) > 0) {
    const void* data = nullptr;
    std::size_t size = 0;
    if (sd_journal_get_data(journal, "MESSAGE", &data, &size) < 0) {
      continue;
    }
    std::string_view text(static_cast<const char*>(data), size);
    text.remove_prefix(std::min(text.size(), std::string_view("MESSAGE=").size()));
    lines.push_back(base::escape_control(text.substr(0, k_longest_line)));
  }
  std::ranges::reverse(lines);
  return lines;
}

// Whether systemd has logged that this start failed.
bool failure_is_logged(const std::string& unit, const std::string& invocation) {
  int r = 0;
  const auto journal = open_journal(r);
  if (!journal) {
    return true;  // nothing to wait for
  }
  // SD_MESSAGE_UNIT_FAILED
  r = match(journal.get(), "MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d");
  if (r < 0 || match(journal.get(), "UNIT=" + unit) < 0 ||
      match(journal.get(), "INVOCATION_ID=" + invocation) < 0) {
    return true;
  }
  return sd_journal_seek_tail(journal.get()) < 0 || sd_journal_previous(journal.get()) > 0;
}

}  // namespace

Result<std::vector<std::string>> unit_log(const std::string& unit, std::size_t limit) {
  int r = 0;
  const auto journal = open_journal(r);
  if (!journal) {
    return base::fail_errno(Code::service_manager, "cannot open the journal", -r, "run the command as root");
  }
  if ((r = match(journal.get(), "_SYSTEMD_UNIT=" + unit)) < 0 ||
      (r = sd_journal_add_disjunction(journal.get())) < 0 || (r = match(journal.get(), "UNIT=" + unit)) < 0 ||
      (r = match(journal.get(), "_PID=1")) < 0) {
    return base::fail_errno(Code::service_manager, base::format("cannot read the journal of {}", unit), -r);
  }
  return last_lines(journal.get(), limit);
}

std::vector<std::string> failed_start_log(const std::string& unit, const std::string& invocation,
                                          std::size_t limit, std::chrono::milliseconds patience) {
  if (invocation.empty()) {
    return {};
  }
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!failure_is_logged(unit, invocation) && std::chrono::steady_clock::now() < deadline) {
    ::usleep(20'000);
  }
  int r = 0;
  const auto journal = open_journal(r);
  if (!journal || match(journal.get(), "_SYSTEMD_UNIT=" + unit) < 0 ||
      match(journal.get(), "_SYSTEMD_INVOCATION_ID=" + invocation) < 0) {
    return {};
  }
  return last_lines(journal.get(), limit);
}

}  // namespace dstack::host
