#include "guest/events.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"

namespace dstack::guest {

using base::Code;
using base::Result;

Result<std::unique_ptr<EventLog>> EventLog::create(std::filesystem::path file, Extend extend) {
  DS_CHECK(base::make_dirs(file.parent_path(), 0755));
  const base::Fd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) {
    return base::fail_errno(Code::io, base::format("cannot create {}", file.string()), errno);
  }
  return std::unique_ptr<EventLog>(new EventLog(std::move(file), std::move(extend)));
}

Result<> EventLog::emit(std::string_view name, base::ByteView payload) {
  const std::lock_guard lock(m_mutex);
  attest::RuntimeEvent event{std::string(name), base::to_bytes(payload)};
  if (m_extend) {
    DS_CHECK(m_extend(event));
  }
  m_events.push_back(event);
  nlohmann::ordered_json line;
  line["event"] = event.event;
  line["payload"] = base::to_base64(event.payload);
  const auto text = line.dump() + "\n";
  const base::Fd fd(::open(m_file.c_str(), O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC));
  if (!fd || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return base::fail_errno(Code::io, base::format("cannot append to {}", m_file.string()), errno);
  }
  return {};
}

std::vector<attest::RuntimeEvent> EventLog::events() const {
  const std::lock_guard lock(m_mutex);
  return m_events;
}

}  // namespace dstack::guest
