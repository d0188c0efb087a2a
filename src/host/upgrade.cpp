#include "host/upgrade.h"

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

using base::Code;
using base::Error;
using base::Result;

Result<std::optional<PendingUpgrade>> load_pending_upgrade(const std::filesystem::path& path) {
  const auto text = base::read_file(path, 64 * 1024);
  if (!text && text.error().code == Code::not_found) {
    return std::optional<PendingUpgrade>();
  }
  const auto json = nlohmann::json::parse(text ? *text : "", nullptr, false);
  PendingUpgrade out;
  if (json.is_object() && json.contains("from") && json.contains("to") && json["from"].is_string() &&
      json["to"].is_string()) {
    out = {json["from"].get<std::string>(), json["to"].get<std::string>()};
  }
  if ((!out.from.empty() && !is_program_set_id(out.from)) || !is_program_set_id(out.to)) {
    return base::fail(Code::state_corrupt,
                      "the record of an unfinished upgrade cannot be read: " + path.string(),
                      "remove the file and run 'dstackup upgrade' or 'dstackup rollback' again");
  }
  return std::optional(std::move(out));
}

Result<> save_pending_upgrade(const std::filesystem::path& path, const PendingUpgrade& pending) {
  const nlohmann::ordered_json json = {{"from", pending.from}, {"to", pending.to}};
  return base::write_file_atomic(path, json.dump() + "\n", {.mode = 0600});
}

Result<std::optional<PendingUpgrade>> Upgrade::unfinished() const {
  DS_TRY(auto pending, load_pending_upgrade(m_pending));
  if (pending && pending->from.empty()) {
    return base::fail(Code::no_previous,
                      "the installation was never complete, so there is nothing to go back to",
                      "run 'dstackup install' first");
  }
  return pending;
}

Result<std::optional<PendingUpgrade>> Upgrade::recover() const {
  DS_TRY(auto pending, unfinished());
  if (pending) {
    m_actions.report("an upgrade was cut off: going back to the programs of before first");
    DS_CHECK(go_back(*pending));
  }
  return pending;
}

Result<> Upgrade::go_back(const PendingUpgrade& pending) const {
  DS_CHECK(m_store.set_current(pending.from));
  DS_CHECK(m_actions.run(pending.from));
  return base::remove_file(m_pending);
}

Result<> Upgrade::switch_to(const std::string& to, const std::optional<std::string>& running) const {
  const auto from = running ? running : m_store.current();
  if (!from) {
    return base::fail(Code::no_previous, "the programs of this installation are not its own copies yet",
                      "run 'dstackup install' once, then upgrade");
  }
  const PendingUpgrade pending{*from, to};
  DS_CHECK(save_pending_upgrade(m_pending, pending));
  const auto forward = [&]() -> Result<> {
    DS_CHECK(m_store.set_current(to));
    DS_CHECK(m_actions.run(to));
    return m_actions.check();
  }();
  if (forward) {
    DS_CHECK(m_store.set_previous(*from));
    return base::remove_file(m_pending);
  }
  m_actions.report("the new programs are not well: " + forward.error().what());
  m_actions.report("going back");
  if (const auto back = go_back(pending); !back) {
    return base::fail(Error{
        Code::upgrade_failed, "the new programs are not well, and those of before do not come up either",
        base::format("{}; then {}", forward.error().what(), back.error().what()),
        "see 'dstackup doctor', then run 'dstackup upgrade' or 'dstackup rollback' again"});
  }
  return base::fail(Error{Code::upgrade_failed, "the new programs are not well; those of before run again",
                          forward.error().what(), forward.error().fix});
}

}  // namespace dstack::host
