#include "host/vm_record.h"

#include <signal.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"

namespace dstack::host {

using base::Code;
using base::Result;

std::optional<LiveVm> read_live_vm(const std::filesystem::path& vm_directory) {
  const auto text = base::read_file(vm_directory / "qemu.json", 64 * 1024);
  if (!text) {
    return std::nullopt;
  }
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object()) {
    return std::nullopt;
  }
  const auto pid = json.find("pid");
  const auto start = json.find("start_time");
  const auto boot = json.find("boot_id");
  if (pid == json.end() || !pid->is_number_integer() || start == json.end() || !start->is_number_unsigned()) {
    return std::nullopt;
  }
  const auto number = pid->get<std::int64_t>();
  if (number <= 1 || number > INT32_MAX) {
    return std::nullopt;
  }
  const auto this_boot = base::read_file("/proc/sys/kernel/random/boot_id", 256);
  if (boot != json.end() && boot->is_string() && this_boot &&
      boot->get<std::string>() != base::trim(*this_boot)) {
    return std::nullopt;
  }
  const auto now = base::process_start_time(static_cast<pid_t>(number));
  if (!now || *now != start->get<unsigned long long>()) {
    return std::nullopt;
  }
  return LiveVm{vm_directory.filename().string(), static_cast<pid_t>(number)};
}

std::vector<LiveVm> live_vms(const std::filesystem::path& vms) {
  std::vector<LiveVm> out;
  std::error_code error;
  for (std::filesystem::directory_iterator it(vms, error), end; !error && it != end; it.increment(error)) {
    if (auto vm = read_live_vm(it->path())) {
      out.push_back(std::move(*vm));
    }
  }
  return out;
}

std::string started_image_hash(const std::filesystem::path& vm_directory) {
  const auto member = [](const std::string& text, const char* key) -> std::string {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    const bool there = json.is_object() && json.contains(key) && json[key].is_string();
    return there ? json[key].get<std::string>() : std::string();
  };
  const auto text = base::read_file(vm_directory / "shared/.sys-config.json", 1024 * 1024);
  return text ? member(member(*text, "vm_config"), "os_image_hash") : std::string();
}

std::string vm_name(const std::filesystem::path& vm_directory) {
  const auto text = base::read_file(vm_directory / "vm-manifest.json", 1024 * 1024);
  const auto json = nlohmann::json::parse(text.value_or(""), nullptr, false);
  const bool there = json.is_object() && json.contains("name") && json["name"].is_string();
  return there ? json["name"].get<std::string>() : std::string();
}

Result<> kill_vms(const std::filesystem::path& vms, std::chrono::milliseconds grace) {
  const auto begin = std::chrono::steady_clock::now();
  const auto kill_at = begin + grace;
  const auto give_up_at = kill_at + std::chrono::seconds(5);
  for (const auto& vm : live_vms(vms)) {
    ::kill(vm.pid, SIGTERM);
  }
  while (true) {
    const auto left = live_vms(vms);
    if (left.empty()) {
      return {};
    }
    const auto now = std::chrono::steady_clock::now();
    if (now > give_up_at) {
      return base::fail(Code::timeout,
                        base::format("the VM {} (pid {}) does not end", left[0].id, left[0].pid),
                        "look at the process; it is likely stuck in the kernel");
    }
    if (now > kill_at) {
      for (const auto& vm : left) {
        ::kill(vm.pid, SIGKILL);
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace dstack::host
