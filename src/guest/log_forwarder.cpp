#include "guest/log_forwarder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"

namespace dstack::guest {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t k_max_line = 8 * 1024;
constexpr std::size_t k_max_read =
    1024 * 1024;  // per file and look, so that one container cannot hold up the rest
constexpr std::size_t k_short_id = 12;

}  // namespace

std::string_view k8s_log_text(std::string_view line) {
  for (int field = 0; field < 3; ++field) {
    const auto space = line.find(' ');
    if (space == std::string_view::npos) {
      return {};
    }
    line.remove_prefix(space + 1);
  }
  return line;
}

std::string boot_time() {
  timespec now{};
  timespec up{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  ::clock_gettime(CLOCK_BOOTTIME, &up);
  const time_t start = now.tv_sec - up.tv_sec;
  tm parts{};
  ::gmtime_r(&start, &parts);
  std::array<char, 32> text{};
  const auto size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  return {text.data(), size};
}

LogForwarder::LogForwarder(fs::path graph_root, std::function<void(std::string_view)> sink, std::string since)
    : m_containers(std::move(graph_root) / "overlay-containers"),
      m_sink(std::move(sink)),
      m_since(std::move(since)) {}

LogForwarder::~LogForwarder() {
  m_stopping = true;
  if (m_thread.joinable()) {
    m_thread.join();
  }
}

void LogForwarder::start() {
  m_thread = std::thread([this] {
    while (!m_stopping) {
      poll();
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
  });
}

std::string LogForwarder::name_of(const std::string& id) const {
  const auto text = base::read_file(m_containers / "containers.json");
  if (text) {
    const auto list = nlohmann::json::parse(*text, nullptr, false);
    if (list.is_array()) {
      for (const auto& container : list) {
        if (!container.is_object() || container.value("id", nlohmann::json()) != id) {
          continue;
        }
        const auto names = container.value("names", nlohmann::json());
        if (names.is_array() && !names.empty() && names[0].is_string()) {
          return names[0].get<std::string>();
        }
      }
    }
  }
  return id.substr(0, k_short_id);
}

void LogForwarder::poll() {
  std::error_code error;
  for (auto it = fs::directory_iterator(m_containers, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const auto id = it->path().filename().string();
    const auto file = it->path() / "userdata" / "ctr.log";
    std::error_code missing;
    if (!fs::is_regular_file(file, missing)) {
      continue;
    }
    auto known = m_sources.find(id);
    if (known == m_sources.end()) {
      known = m_sources.emplace(id, Source{name_of(id), 0, 0, {}}).first;
    }
    read_new(file, known->second);
  }
}

void LogForwarder::read_new(const fs::path& file, Source& source) {
  const base::Fd fd(::open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info{};
  if (!fd || ::fstat(fd.get(), &info) != 0) {
    return;
  }
  if (info.st_ino != source.inode || static_cast<std::uint64_t>(info.st_size) < source.offset) {
    source = Source{source.name, 0, info.st_ino, {}};  // rotated
  }
  std::array<char, 16 * 1024> buffer;
  for (std::size_t total = 0; total < k_max_read;) {
    const auto n = ::pread(fd.get(), buffer.data(), buffer.size(), static_cast<off_t>(source.offset));
    if (n <= 0) {
      return;
    }
    total += static_cast<std::size_t>(n);
    source.offset += static_cast<std::uint64_t>(n);
    source.rest.append(buffer.data(), static_cast<std::size_t>(n));
    std::size_t start = 0;
    for (std::size_t end = 0; (end = source.rest.find('\n', start)) != std::string::npos; start = end + 1) {
      const auto line = std::string_view(source.rest).substr(start, end - start);
      if (line.substr(0, m_since.size()) < m_since) {
        continue;
      }
      const auto text = k8s_log_text(line);
      m_sink(base::format("[{}] {}", source.name, base::escape_control(text.substr(0, k_max_line))));
    }
    source.rest.erase(0, start);
    if (source.rest.size() > k_max_line) {
      source.rest.clear();
    }
  }
}

}  // namespace dstack::guest
