#include "vmm/vm_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/strict_json.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;
using Json = nlohmann::ordered_json;

namespace {

constexpr const char* k_staging = ".new-";
constexpr const char* k_discarded = ".removed-";

Result<Json> read_json(const fs::path& path, std::size_t limit) {
  DS_TRY(const auto text, base::read_file(path, limit));
  return app::parse_json_strict(text, {.max_bytes = limit, .max_depth = 16});
}

std::string text_of(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::int64_t number_of(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_number_integer() ? it->get<std::int64_t>() : 0;
}

}  // namespace

Result<> VmFiles::write_manifest(const Manifest& manifest) const {
  return base::write_file_atomic(m_directory / "vm-manifest.json", manifest_to_json(manifest),
                                 {.mode = 0600});
}

Result<Manifest> VmFiles::read_manifest() const {
  const auto path = m_directory / "vm-manifest.json";
  auto text = base::read_file(path, k_max_manifest);
  if (!text) {
    auto error = std::move(text).error();
    error.code = Code::vm_record;
    return fail(std::move(error));
  }
  auto manifest = parse_manifest(*text);
  if (!manifest) {
    auto error = std::move(manifest).error();
    error.fix = base::format("repair {} or remove the VM", path.native());
    return fail(std::move(error));
  }
  if (manifest->id != m_directory.filename().native()) {
    return fail(Code::vm_record, base::format("{} is about another VM, {}", path.native(), manifest->id),
                "repair it or remove the VM");
  }
  return manifest;
}

Result<> VmFiles::write_started(bool started) const {
  return base::write_file_atomic(m_directory / "vm-state.json", base::format("{{\"started\":{}}}", started),
                                 {.mode = 0600});
}

bool VmFiles::read_started() const {
  const auto json = read_json(m_directory / "vm-state.json", 4096);
  return json && json->is_object() && json->contains("started") && (*json)["started"] == true;
}

bool VmFiles::removing() const {
  std::error_code ignored;
  return fs::exists(m_directory / ".removing", ignored);
}

Result<> VmFiles::mark_removing() const {
  return base::write_file_atomic(m_directory / ".removing", "", {.mode = 0600});
}

Result<> VmFiles::write_progress(const Progress& progress) const {
  Json out;
  out["boot_progress"] = progress.boot_progress;
  out["boot_error"] = progress.boot_error;
  out["shutdown_progress"] = progress.shutdown_progress;
  out["started_at_ms"] = progress.started_at_ms;
  out["stopped_at_ms"] = progress.stopped_at_ms;
  return base::write_file_atomic(m_directory / "vm-progress.json",
                                 out.dump(-1, ' ', false, Json::error_handler_t::replace), {.mode = 0600});
}

Progress VmFiles::read_progress() const {
  const auto json = read_json(m_directory / "vm-progress.json", 64 * 1024);
  Progress progress;
  if (json) {
    progress.boot_progress = text_of(*json, "boot_progress");
    progress.boot_error = text_of(*json, "boot_error");
    progress.shutdown_progress = text_of(*json, "shutdown_progress");
    progress.started_at_ms = number_of(*json, "started_at_ms");
    progress.stopped_at_ms = number_of(*json, "stopped_at_ms");
  }
  return progress;
}

Result<> VmFiles::write_process(const ProcessRecord& record) const {
  return base::write_file_atomic(m_directory / "qemu.json", process_record_to_json(record), {.mode = 0600});
}

std::optional<ProcessRecord> VmFiles::read_process() const {
  const auto text = base::read_file(m_directory / "qemu.json", 4096);
  if (!text) {
    return std::nullopt;
  }
  auto record = parse_process_record(*text);
  return record ? std::optional(std::move(*record)) : std::nullopt;
}

Result<> VmFiles::remove_process() const {
  return base::remove_file(m_directory / "qemu.json");
}

Result<> VmFiles::write_token(std::string_view token) const {
  return base::write_file_atomic(m_directory / "host-api.token", token, {.mode = 0600});
}

Result<std::string> VmFiles::read_token() const {
  DS_TRY(const auto text, base::read_file(m_directory / "host-api.token", 256));
  const auto token = base::trim(text);
  if (token.empty()) {
    return fail(Code::vm_record, base::format("{} is empty", (m_directory / "host-api.token").native()));
  }
  return std::string(token);
}

std::string VmFiles::read_instance_id() const {
  const auto json = read_json(instance_info(), 10 * 1024);
  const auto id = json ? text_of(*json, "instance_id") : std::string();
  const auto bytes = base::from_hex(id);
  return bytes && bytes->size() <= 64 ? base::to_hex(*bytes) : std::string();
}

Result<std::vector<std::string>> list_vm_ids(const fs::path& run_path) {
  std::vector<std::string> ids;
  std::vector<fs::path> leftovers;
  std::error_code error;
  for (fs::directory_iterator it(run_path, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    std::error_code ignored;
    if (it->is_symlink(ignored) || !it->is_directory(ignored)) {
      continue;
    }
    const auto name = it->path().filename().native();
    if (name.starts_with(k_staging) || name.starts_with(k_discarded)) {
      leftovers.push_back(it->path());
    } else if (valid_vm_id(name)) {
      ids.push_back(name);
    } else {
      base::log_warn(base::format("{} is not a VM's directory and is left alone", it->path().native()));
    }
  }
  if (error) {
    return base::fail_errno(Code::io, base::format("cannot list {}", run_path.native()), error.value());
  }
  for (const auto& path : leftovers) {
    if (const auto removed = base::remove_tree(path); !removed) {
      base::log_warn(removed.error().what());
    }
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

fs::path staging_directory(const fs::path& run_path, std::string_view id) {
  return run_path / (k_staging + std::string(id));
}

fs::path discarded_directory(const fs::path& run_path, std::string_view id) {
  return run_path / (k_discarded + std::string(id));
}

}  // namespace dstack::vmm
