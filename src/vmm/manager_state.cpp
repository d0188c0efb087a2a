// The manager's view of its VMs, and what guests and processes tell it.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "vmm/manager.h"
#include "vmm/manager_vm.h"
#include "vmm/vm_logs.h"

#include "app/strict_json.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;

namespace {

constexpr std::size_t k_max_event_name = 128;
constexpr std::size_t k_max_event_body = 4096;

// The last line with something in it, for a message.
std::string last_line(const fs::path& log) {
  LogTail tail(log, {.lines = 5});
  std::string text;
  while (const auto chunk = tail.next()) {
    text += *chunk;
  }
  const auto trimmed = base::trim(text);
  const auto start = trimmed.rfind('\n');
  auto line = std::string(base::trim(start == std::string_view::npos ? trimmed : trimmed.substr(start + 1)));
  if (line.starts_with("===== ")) {
    line.clear();
  }
  return line.substr(0, 300);
}

}  // namespace

VmView VmManager::view(const Vm& vm) const {
  VmView out;
  out.manifest = vm.manifest;
  out.running = vm.process.has_value();
  if (vm.removing) {
    out.status = "removing";
  } else if (vm.started) {
    out.status = out.running ? "running" : "exited";
  } else {
    out.status = out.running ? "stopping" : "stopped";
  }
  out.progress = vm.progress;
  out.instance_id = vm.instance_id;
  out.image_version = vm.image_version;
  out.events.assign(vm.events.begin(), vm.events.end());
  out.broken = vm.broken;
  return out;
}

std::vector<VmView> VmManager::list() const {
  std::vector<VmView> out;
  {
    const std::lock_guard lock(m_mutex);
    for (const auto& [id, vm] : m_vms) {
      out.push_back(view(*vm));
    }
  }
  std::stable_sort(out.begin(), out.end(), [](const VmView& a, const VmView& b) {
    return a.manifest.created_at_ms < b.manifest.created_at_ms;
  });
  return out;
}

std::optional<VmView> VmManager::find(const std::string& id) const {
  const std::lock_guard lock(m_mutex);
  const auto vm = get(id);
  return vm ? std::optional(view(*vm)) : std::nullopt;
}

std::string VmManager::read_compose(const std::string& id) const {
  const auto vm = require(id);
  return vm ? base::read_file((*vm)->files.compose(), 64 * 1024 * 1024).value_or("") : "";
}

std::string VmManager::read_user_config(const std::string& id) const {
  const auto vm = require(id);
  return vm ? base::read_file((*vm)->files.user_config(), 64 * 1024 * 1024).value_or("") : "";
}

Result<fs::path> VmManager::log_path(const std::string& id, std::string_view channel) const {
  DS_TRY(const auto vm, require(id));
  if (channel != "serial" && channel != "stdout" && channel != "stderr") {
    return fail(Code::invalid_argument,
                base::format("Unknown channel {}", base::escape_control(channel.substr(0, 32))));
  }
  return vm->files.log(channel);
}

std::optional<std::string> VmManager::vm_of_token(std::string_view token) const {
  const auto hash = crypto::sha256(base::as_bytes(token));
  std::optional<std::string> found;
  const std::lock_guard lock(m_mutex);
  for (const auto& [id, vm] : m_vms) {
    if (base::equal_constant_time(hash, vm->token_hash) && !vm->token.empty()) {
      found = id;
    }
  }
  return found;
}

Result<> VmManager::notify(const std::string& id, const std::string& event, const std::string& body) {
  if (body.size() > k_max_event_body || event.size() > k_max_event_name) {
    return {};
  }
  DS_TRY(const auto vm, require(id));
  const std::lock_guard lock(m_mutex);
  // Text from a guest ends in terminals and logs.
  const auto text = base::escape_control(body);
  push_event(*vm, base::escape_control(event), text);
  if (event == "boot.progress") {
    vm->progress.boot_progress = text;
  } else if (event == "boot.error") {
    vm->progress.boot_error = text;
    base::log_warn(base::format("VM {} ({}): boot error: {}", id, vm->manifest.name, text));
  } else if (event == "shutdown.progress") {
    vm->progress.shutdown_progress = text;
    if (body == "powering off") {
      set_started(*vm, false);
    }
  } else if (event == "instance.info") {
    if (const auto json = app::parse_json_strict(body, {.max_bytes = k_max_event_body, .max_depth = 4});
        !json || !json->is_object()) {
      return fail(Code::vm_request, "instance.info is not a JSON object");
    }
    DS_CHECK(base::write_file_atomic(vm->files.instance_info(), body, {.mode = 0600}));
    vm->instance_id = vm->files.read_instance_id();
    return {};
  } else {
    return {};
  }
  save_progress(*vm);
  return {};
}

void VmManager::on_exit(const std::string& id, pid_t pid, std::optional<int> code) {
  {
    const std::lock_guard lock(m_mutex);
    const auto vm = get(id);
    if (!vm || !vm->process || vm->process->pid != pid) {
      return;
    }
    const auto now = m_seams.clock.wall_ms();
    const auto seconds = (now - vm->process->started_at_ms) / 1000;
    vm->process.reset();
    vm->kill_due = false;
    if (const auto removed = vm->files.remove_process(); !removed) {
      base::log_warn(removed.error().what());
    }
    vm->progress.stopped_at_ms = now;
    if (vm->shutdown_requested) {
      set_started(*vm, false);
    }
    vm->shutdown_requested = false;
    if (vm->started && !vm->removing) {
      auto reason = base::format("the VM ended by itself after {} s", seconds);
      if (code && *code != 0) {
        reason += base::format(" (exit code {})", *code);
        if (const auto line = last_line(vm->files.log("stderr")); !line.empty()) {
          reason += ": " + line;
        }
      } else if (const auto line = last_line(vm->files.log("serial")); !line.empty()) {
        reason += "; last on its console: " + line;
      } else if (const auto said = last_line(vm->files.log("stderr")); !code && !said.empty()) {
        // How it ended is not known, but its guest never said anything: QEMU itself may have.
        reason += ": " + said;
      }
      base::log_warn(base::format("VM {} ({}): {}", id, vm->manifest.name, reason));
      push_event(*vm, "vmm.exited", reason);
      if (vm->progress.boot_error.empty() && vm->progress.boot_progress != "done") {
        vm->progress.boot_error = reason;
      }
    } else {
      base::log_info(base::format("VM {} ({}) has ended", id, vm->manifest.name));
    }
    save_progress(*vm);
    m_wake = true;
  }
  m_changed.notify_all();
}

void VmManager::launch_failed(Vm& vm, const base::Error& error) {
  vm.progress.boot_error = error.what();
  push_event(vm, "vmm.start_failed", error.what());
  save_progress(vm);
}

void VmManager::push_event(Vm& vm, std::string event, std::string body) {
  vm.events.push_back({std::move(event), std::move(body), m_seams.clock.wall_ms()});
  while (vm.events.size() > m_config.event_buffer_size) {
    vm.events.pop_front();
  }
}

void VmManager::set_started(Vm& vm, bool started) {
  vm.started = started;
  if (const auto written = vm.files.write_started(started); !written) {
    base::log_warn(written.error().what());
  }
}

void VmManager::save_progress(Vm& vm) {
  if (const auto written = vm.files.write_progress(vm.progress); !written) {
    base::log_warn(written.error().what());
  }
}

}  // namespace dstack::vmm
