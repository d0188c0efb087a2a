#include "host/download.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "crypto/hash.h"

namespace dstack::host {

using base::Code;
using base::Error;
using base::Result;
using std::chrono::steady_clock;

namespace {

namespace fs = std::filesystem;

// Slower than this over a whole window is no progress but somebody holding us.
constexpr std::uint64_t k_least_window_bytes = 64 * 1024;
constexpr std::chrono::seconds k_window{60};
constexpr std::uint64_t k_spare_space = 64 * 1024 * 1024;

fs::path partial_file(const fs::path& directory, const std::string& name) {
  return directory / ("." + name + ".partial");
}
fs::path note_file(const fs::path& directory, const std::string& name) {
  return directory / ("." + name + ".partial.json");
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty() ? std::optional(value)
                                                                                   : std::nullopt;
}

std::string header(const net::Response& response, std::string_view name) {
  return std::string(response.headers.get(name).value_or(""));
}

// Only a strong one says that bytes are the same.
std::string strong_etag(const net::Response& response) {
  auto etag = header(response, "ETag");
  return etag.size() < 3 || etag.size() > 256 || !etag.starts_with('"') ? "" : etag;
}

// What is known of the file that the partial one is the beginning of.
struct Note {
  std::string sha256;
  std::string url;
  std::string etag;
  std::optional<std::uint64_t> total;

  static std::optional<Note> load(const fs::path& path) {
    const auto text = base::read_file(path, 64 * 1024);
    const auto json = nlohmann::json::parse(text ? *text : "", nullptr, false);
    if (!json.is_object()) {
      return std::nullopt;
    }
    Note out;
    const auto read = [&](const char* key, std::string& target) {
      if (json.contains(key) && json[key].is_string()) {
        target = json[key].get<std::string>();
      }
    };
    read("sha256", out.sha256);
    read("url", out.url);
    read("etag", out.etag);
    if (json.contains("size") && json["size"].is_number_unsigned()) {
      out.total = json["size"].get<std::uint64_t>();
    }
    return out;
  }
  Result<> save(const fs::path& path) const {
    nlohmann::ordered_json json = {{"sha256", sha256}, {"url", url}, {"etag", etag}};
    if (total) {
      json["size"] = *total;
    }
    return base::write_file_atomic(
        path, json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n", {.mode = 0600});
  }
};

class Attempt {
 public:
  explicit Attempt(const Download& what)
      : m_what(what),
        m_path(partial_file(what.directory, what.name)),
        m_note_path(note_file(what.directory, what.name)) {}

  Result<Downloaded> run() {
    DS_CHECK(open_partial());
    DS_CHECK(find_beginning());
    bool restarted = false;
    unsigned retries = m_what.retries;
    while (true) {
      const auto before = m_done;
      const auto complete = m_note.total && m_done == *m_note.total && m_done > 0;
      auto fetched = complete ? Result<>() : fetch();
      if (!fetched && m_restart && !restarted) {
        restarted = true;
        say(fetched.error().what() + "; starting over");
        DS_CHECK(start_over());
        continue;
      }
      if (!fetched && may_retry(fetched.error()) && m_done > before && retries > 0) {
        --retries;
        say(fetched.error().what() + "; going on");
        std::this_thread::sleep_for(m_what.pause);
        continue;
      }
      if (!fetched) {
        return give_up(std::move(fetched).error());
      }
      if (::fdatasync(m_fd.get()) != 0) {
        return base::fail_errno(Code::io, "cannot write " + m_path.string(), errno);
      }
      const auto sum = base::to_hex(m_hash->finish());
      if (!m_what.sha256 || sum == *m_what.sha256) {
        return Downloaded{m_path, sum, m_done, m_resumed, std::move(m_fd)};
      }
      if (m_resumed && !restarted) {
        // The beginning may come from another version of the file, or from before a power cut.
        restarted = true;
        say("what was resumed does not have the right digest; starting over");
        DS_CHECK(start_over());
        continue;
      }
      DS_CHECK(discard_download(m_what.directory, m_what.name));
      return base::fail(Error{Code::download,
                              base::format("{} is not the file that the release names", m_what.name),
                              base::format("its sha256 is {}, not {}", sum, *m_what.sha256),
                              "it was thrown away; try again, and if it stays so, do not use this source"});
    }
  }

 private:
  void say(const std::string& line) const {
    if (m_what.on_note) {
      m_what.on_note(line);
    }
  }

  static bool may_retry(const Error& error) {
    return error.code == Code::http || error.code == Code::timeout || error.code == Code::connect_failed ||
           error.code == Code::tls;
  }

  std::unexpected<Error> give_up(Error error) {
    if (m_done == 0) {
      m_fd.reset();
      if (const auto discarded = discard_download(m_what.directory, m_what.name); !discarded) {
        say(discarded.error().what());
      }
      return base::fail(std::move(error), "cannot download " + m_what.name);
    }
    if (error.fix.empty() || may_retry(error)) {
      error.fix = base::format("run it again: it goes on after the {} bytes that are there", m_done);
    }
    return base::fail(std::move(error), base::format("the download of {} broke off", m_what.name));
  }

  Result<> open_partial() {
    DS_CHECK(base::make_dirs(m_what.directory));
    for (int i = 0; i < 10; ++i) {
      m_fd.reset(::open(m_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
      struct stat ours = {};
      struct stat named = {};
      if (!m_fd || ::fstat(m_fd.get(), &ours) != 0) {
        return base::fail_errno(Code::io, "cannot open " + m_path.string(), errno);
      }
      if (!S_ISREG(ours.st_mode)) {
        return base::fail(Code::io, m_path.string() + " is not a regular file", "remove it");
      }
      if (::flock(m_fd.get(), LOCK_EX | LOCK_NB) != 0) {
        return base::fail(Code::locked, base::format("another process downloads {}", m_what.name),
                          "wait until it has finished");
      }
      // Whoever had the lock may have removed the file in the meantime.
      if (::stat(m_path.c_str(), &named) == 0 && named.st_ino == ours.st_ino && named.st_dev == ours.st_dev) {
        m_done = static_cast<std::uint64_t>(ours.st_size);
        return {};
      }
    }
    return base::fail(Code::locked, base::format("other processes download {}", m_what.name));
  }

  Result<> find_beginning() {
    const auto note = Note::load(m_note_path);
    const bool same_file = note && note->sha256 == m_what.sha256.value_or("") &&
                           (m_what.sha256 || (!note->etag.empty() && note->url == m_what.url.to_string())) &&
                           (!m_what.size || !note->total || *note->total == *m_what.size);
    if (m_done == 0 || !same_file || (note->total && m_done > *note->total)) {
      return start_over();
    }
    m_note = *note;
    m_hash.emplace();
    std::vector<std::uint8_t> buffer(1 << 20);
    for (std::uint64_t at = 0; at < m_done;) {
      const auto n = ::pread(m_fd.get(), buffer.data(), std::min<std::uint64_t>(buffer.size(), m_done - at),
                             static_cast<off_t>(at));
      if (n <= 0) {
        return start_over();
      }
      m_hash->update({buffer.data(), static_cast<std::size_t>(n)});
      at += static_cast<std::uint64_t>(n);
    }
    m_resumed = true;
    say(base::format("going on with {} after {} bytes", m_what.name, m_done));
    return {};
  }

  Result<> start_over() {
    if (::ftruncate(m_fd.get(), 0) != 0) {
      return base::fail_errno(Code::io, "cannot write " + m_path.string(), errno);
    }
    DS_CHECK(base::remove_file(m_note_path));
    m_done = 0;
    m_hash.emplace();
    m_resumed = false;
    m_restart = false;
    m_note = Note{m_what.sha256.value_or(""), m_what.url.to_string(), "", m_what.size};
    return {};
  }

  Result<> fetch() {
    net::Headers headers;
    headers.add("User-Agent", "dstackup");
    headers.add("Accept", "application/octet-stream");
    if (m_done > 0) {
      headers.add("Range", base::format("bytes={}-", m_done));
      if (!m_note.etag.empty()) {
        headers.add("If-Range", m_note.etag);
      }
    }
    m_window_start = steady_clock::now();
    m_window_bytes = 0;
    const net::BodyReceiver receiver{[this](const net::Response& head) { return on_head(head); },
                                     [this](std::string_view part) { return on_part(part); }};
    auto options = m_what.fetch;
    options.max_body = 64 * 1024;  // of an error page
    DS_TRY(const auto answer, net::fetch(m_what.url, headers, options, &receiver));
    if (answer.response.status == 416) {
      m_restart = true;
      return base::fail(Code::download, "the server has nothing after what is there already");
    }
    if (answer.response.status != 200 && answer.response.status != 206) {
      return base::fail(describe_refusal(answer, m_what.name));
    }
    if (m_note.total && m_done != *m_note.total) {
      return base::fail(Code::http, base::format("{} bytes arrived instead of {}", m_done, *m_note.total));
    }
    return {};
  }

  Result<bool> on_head(const net::Response& head) {
    if (head.status != 200 && head.status != 206) {
      return false;
    }
    if (header(head, "Content-Type").starts_with("text/html")) {
      return base::fail(Code::download,
                        base::format("the server sends a web page instead of {}", m_what.name),
                        "check the address, and whether a proxy or a login page is in between");
    }
    if (!header(head, "Content-Encoding").empty() && header(head, "Content-Encoding") != "identity") {
      return base::fail(
          Code::download,
          base::format("the server sends {} in an encoding that was not asked for", m_what.name));
    }
    std::optional<std::uint64_t> total;
    if (head.status == 206) {
      DS_TRY(total, check_range(head));
    } else {
      if (m_done > 0) {
        say("the server sends the whole file, not the rest; starting over");
        DS_CHECK(start_over());
      }
      total = parse_number(header(head, "Content-Length"));
    }
    const auto expected = m_what.size ? m_what.size : m_note.total;
    if (total && expected && *total != *expected) {
      m_restart = m_done > 0;
      return base::fail(Code::download, base::format("the server has {} bytes for {}, not {}", *total,
                                                     m_what.name, *expected));
    }
    m_note.total = total ? total : expected;
    m_note.etag = strong_etag(head);
    if (m_note.total) {
      DS_CHECK(check_room(*m_note.total - m_done));
    }
    DS_CHECK(m_note.save(m_note_path));
    return true;
  }

  Result<std::optional<std::uint64_t>> check_range(const net::Response& head) {
    const auto range = parse_content_range(header(head, "Content-Range"));
    const auto etag = strong_etag(head);
    m_restart = true;
    if (m_done == 0 || !range || range->first != m_done) {
      return base::fail(Code::download, "the server sends another part than was asked for");
    }
    if (!m_note.etag.empty() && !etag.empty() && etag != m_note.etag) {
      return base::fail(Code::download, "the file has changed on the server");
    }
    m_restart = false;
    return range->total;
  }

  Result<> check_room(std::uint64_t needed) const {
    if (needed > m_what.max_size) {
      return base::fail(Code::too_large,
                        base::format("{} is larger than {} bytes", m_what.name, m_what.max_size));
    }
    struct statvfs info = {};
    if (::fstatvfs(m_fd.get(), &info) == 0) {
      const auto room = static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
      if (room < needed + k_spare_space) {
        return base::fail(Code::no_space,
                          base::format("{} needs {} MiB more, and {} has {} MiB free", m_what.name,
                                       needed >> 20, m_what.directory.string(), room >> 20),
                          "free some space, or choose another directory with --image-path");
      }
    }
    return {};
  }

  Result<> on_part(std::string_view part) {
    const auto limit = m_note.total ? *m_note.total : m_what.max_size;
    if (part.size() > limit - std::min(limit, m_done)) {
      m_restart = true;
      return base::fail(m_note.total ? Code::download : Code::too_large,
                        base::format("the server sends more than {} bytes for {}", limit, m_what.name));
    }
    std::string_view left = part;
    while (!left.empty()) {
      const auto n = ::pwrite(m_fd.get(), left.data(), left.size(), static_cast<off_t>(m_done));
      if (n < 0 && errno == EINTR) {
        continue;
      }
      if (n <= 0) {
        return base::fail_errno(errno == ENOSPC ? Code::no_space : Code::io,
                                "cannot write " + m_path.string(), errno,
                                "free some space and run it again: it goes on where it stopped");
      }
      m_hash->update(base::as_bytes(left.substr(0, static_cast<std::size_t>(n))));
      m_done += static_cast<std::uint64_t>(n);
      left.remove_prefix(static_cast<std::size_t>(n));
    }
    if (m_what.on_progress) {
      m_what.on_progress(m_done, m_note.total);
    }
    m_window_bytes += part.size();
    if (const auto now = steady_clock::now(); now - m_window_start > k_window) {
      if (m_window_bytes < k_least_window_bytes) {
        return base::fail(Code::timeout, "the server sends next to nothing");
      }
      m_window_start = now;
      m_window_bytes = 0;
    }
    return {};
  }

  const Download& m_what;
  fs::path m_path;
  fs::path m_note_path;
  base::Fd m_fd;
  Note m_note;
  std::uint64_t m_done = 0;
  std::optional<crypto::Sha256> m_hash;
  bool m_resumed = false;
  bool m_restart = false;  // the last error goes away when the file is fetched from its beginning
  steady_clock::time_point m_window_start;
  std::uint64_t m_window_bytes = 0;
};

}  // namespace

Result<Downloaded> download(const Download& what) {
  return Attempt(what).run();
}

Result<> discard_download(const fs::path& directory, const std::string& name) {
  DS_CHECK(base::remove_file(note_file(directory, name)));
  return base::remove_file(partial_file(directory, name));
}

Error describe_refusal(const net::Fetched& answer, const std::string& what) {
  const auto& response = answer.response;
  const auto where = answer.url.to_string();
  const bool limited =
      response.status == 429 || (response.status == 403 && header(response, "X-RateLimit-Remaining") == "0");
  if (limited) {
    std::string until;
    if (const auto reset = parse_number(header(response, "X-RateLimit-Reset"));
        reset && *reset < 253402300800U) {
      const auto time = static_cast<std::time_t>(*reset);
      std::tm parts = {};
      ::gmtime_r(&time, &parts);
      until = base::format(" until {:02}:{:02} UTC", parts.tm_hour, parts.tm_min);
    }
    return {Code::download,
            base::format("the server refuses {}: too many requests from this address{}", what, until),
            base::format("{} answers {}", where, response.status),
            "wait, or use a mirror with --release-api-base-url"};
  }
  const auto cause = base::format("{} answers {}", where, response.status);
  if (response.status == 404 || response.status == 410) {
    return {Code::download, base::format("the server does not have {}", what), cause,
            "check the version; 'dstackup image pull' without --version takes the latest one"};
  }
  if (response.status == 401 || response.status == 403) {
    return {Code::download, base::format("the server refuses {}", what), cause,
            "check the address and whether a login or a proxy is needed there"};
  }
  return {Code::download, base::format("the server cannot deliver {}", what), cause, "try again later"};
}

std::optional<ContentRange> parse_content_range(std::string_view text) {
  constexpr std::string_view k_unit = "bytes ";
  const auto dash = text.find('-');
  const auto slash = text.find('/');
  if (!text.starts_with(k_unit) || dash == std::string_view::npos || slash == std::string_view::npos ||
      dash > slash) {
    return std::nullopt;
  }
  const auto first = parse_number(text.substr(k_unit.size(), dash - k_unit.size()));
  const auto last = parse_number(text.substr(dash + 1, slash - dash - 1));
  const auto total = text.substr(slash + 1);
  if (!first || !last || *first > *last) {
    return std::nullopt;
  }
  ContentRange out{*first, *last, parse_number(total)};
  if (total != "*" && (!out.total || *last >= *out.total)) {
    return std::nullopt;
  }
  return out;
}

}  // namespace dstack::host
