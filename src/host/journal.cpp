#include "host/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

struct KindName {
  JournalEntry::Kind kind;
  std::string_view name;
};
constexpr std::array k_kinds = {
    KindName{JournalEntry::Kind::directory, "directory"},
    KindName{JournalEntry::Kind::tree, "tree"},
    KindName{JournalEntry::Kind::file, "file"},
    KindName{JournalEntry::Kind::service, "service"},
    KindName{JournalEntry::Kind::unit_file, "unit_file"},
    KindName{JournalEntry::Kind::supervisor, "supervisor"},
    KindName{JournalEntry::Kind::vm, "vm"},
    KindName{JournalEntry::Kind::cgroup, "cgroup"},
    KindName{JournalEntry::Kind::compose, "compose"},
};

std::optional<JournalEntry> parse_line(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("kind") || !json.contains("name") || !json["kind"].is_string() ||
      !json["name"].is_string()) {
    return std::nullopt;
  }
  const auto kind = json["kind"].get<std::string>();
  const auto* known = std::ranges::find(k_kinds, kind, &KindName::name);
  if (known == k_kinds.end()) {
    return std::nullopt;
  }
  JournalEntry entry{known->kind, json["name"].get<std::string>(), {}};
  if (json.contains("note") && json["note"].is_string()) {
    entry.note = json["note"].get<std::string>();
  }
  return entry;
}

struct Parsed {
  std::vector<JournalEntry> entries;
  std::size_t good_bytes = 0;  // up to and including the last complete line
};

Result<Parsed> parse(std::string_view text, const std::filesystem::path& path) {
  Parsed out;
  std::size_t number = 0;
  while (out.good_bytes < text.size()) {
    const auto end = text.find('\n', out.good_bytes);
    if (end == std::string_view::npos) {
      break;
    }
    ++number;
    auto entry = parse_line(text.substr(out.good_bytes, end - out.good_bytes));
    if (!entry) {
      return base::fail(
          Code::journal_corrupt,
          base::format("line {} of the installation journal {} is malformed", number, path.string()),
          base::format("look at the file; remove the line if it names nothing that exists, or move the "
                       "file away and remove what it names by hand"));
    }
    out.entries.push_back(std::move(*entry));
    out.good_bytes = end + 1;
  }
  return out;
}

}  // namespace

std::string_view to_string(JournalEntry::Kind kind) {
  return std::ranges::find(k_kinds, kind, &KindName::kind)->name;
}

std::string Journal::line(const JournalEntry& entry) {
  nlohmann::ordered_json json;
  json["kind"] = to_string(entry.kind);
  json["name"] = entry.name;
  if (!entry.note.empty()) {
    json["note"] = entry.note;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

Result<std::vector<JournalEntry>> Journal::read(const std::filesystem::path& path) {
  auto text = base::read_file(path);
  if (!text) {
    if (text.error().code == Code::not_found) {
      return std::vector<JournalEntry>();
    }
    return base::fail(std::move(text).error());
  }
  DS_TRY(auto parsed, parse(*text, path));
  return std::move(parsed.entries);
}

Result<Journal> Journal::open(const std::filesystem::path& path) {
  base::Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return base::fail_errno(Code::io, "cannot open the installation journal " + path.string(), errno);
  }
  DS_TRY(const auto text, base::read_file(path));
  DS_TRY(auto parsed, parse(text, path));
  if (parsed.good_bytes < text.size() && ::ftruncate(fd.get(), static_cast<off_t>(parsed.good_bytes)) != 0) {
    return base::fail_errno(Code::io, "cannot repair the installation journal " + path.string(), errno);
  }
  if (text.empty()) {
    // A new file: its name must be durable too, or the first entry could be lost with it.
    const base::Fd directory(::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || ::fsync(directory.get()) != 0) {
      return base::fail_errno(Code::io, "cannot sync " + path.parent_path().string(), errno);
    }
  }
  return Journal(std::move(fd), path, std::move(parsed.entries));
}

Result<> Journal::record(JournalEntry entry) {
  const bool known = std::ranges::any_of(
      m_entries, [&](const JournalEntry& e) { return e.kind == entry.kind && e.name == entry.name; });
  if (known) {
    return {};
  }
  const auto text = line(entry);
  // One write, so that a crash leaves at most one torn line at the end.
  const ssize_t n = ::write(m_fd.get(), text.data(), text.size());
  if (n != static_cast<ssize_t>(text.size()) || ::fdatasync(m_fd.get()) != 0) {
    return base::fail_errno(Code::io, "cannot write the installation journal " + m_path.string(),
                            n >= 0 && n != static_cast<ssize_t>(text.size()) ? ENOSPC : errno,
                            "free space on its file system");
  }
  m_entries.push_back(std::move(entry));
  return {};
}

}  // namespace dstack::host
