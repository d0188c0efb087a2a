// What the VM manager's tests share: a temporary directory with a guest image, a clock that is set by hand,
// and VM processes that are only entries in a map.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "base/format.h"
#include "base/fs.h"
#include "unit/temp_dir.h"
#include "vmm/manager.h"

namespace dstack::vmm::lab {

namespace fs = std::filesystem;

inline void write(const fs::path& path, std::string_view text) {
  fs::create_directories(path.parent_path());
  const auto written = base::write_file_atomic(path, text);
  ASSERT_TRUE(written) << written.error().what();
}

inline std::string read(const fs::path& path) {
  return base::read_file(path, 256 * 1024 * 1024).value_or("");
}

inline void make_image(const fs::path& images, const std::string& name) {
  const auto directory = images / name;
  write(directory / "bzImage", "kernel");
  write(directory / "initramfs.cpio.gz", "initrd");
  write(directory / "rootfs.img.parted.verity", "root");
  write(directory / "digest.txt", std::string(64, 'd') + "\n");
  write(directory / "metadata.json",
        R"({"cmdline":"console=ttyS0","kernel":"bzImage","initrd":"initramfs.cpio.gz",)"
        R"("rootfs":"rootfs.img.parted.verity","rootfs_hash":"00","version":"0.6.0","shared_ro":true})");
}

inline std::string compose(const std::string& extra = "") {
  return base::format(
      R"({{"manifest_version":2,"name":"hello","runner":"docker-compose","docker_compose_file":"services: {{}}"{}}})",
      extra);
}

inline ::vmm::VmConfiguration request(std::uint16_t host_port = 0) {
  ::vmm::VmConfiguration out;
  out.set_name("hello");
  out.set_image("dstack-0.6.0");
  out.set_compose_file(compose());
  out.set_vcpu(2);
  out.set_memory(1024);
  out.set_disk_size(5);
  if (host_port != 0) {
    auto* port = out.add_ports();
    port->set_protocol("tcp");
    port->set_host_port(host_port);
    port->set_vm_port(80);
  }
  return out;
}

class FakeClock : public Clock {
 public:
  std::int64_t wall_ms() const override { return m_now; }
  std::int64_t steady_ms() const override { return m_now; }
  void advance(std::int64_t milliseconds) { m_now += milliseconds; }

 private:
  std::atomic<std::int64_t> m_now{1'800'000'000'000};
};

class FakeProcesses : public VmProcesses {
 public:
  void on_exit(ExitHandler handler) override { m_handler = std::move(handler); }
  base::Result<ProcessRecord> start(const ProcessSpec& spec) override {
    if (fail_starts) {
      return base::fail(base::Code::vm_start, "the fake does not start");
    }
    ++starts;
    last = spec;
    ProcessRecord record;
    record.pid = m_next_pid++;
    record.start_time = 1;
    record.boot_id = "boot";
    m_running[spec.vm_id] = record.pid;
    return record;
  }
  bool adopt(const std::string& vm_id, const ProcessRecord& record) override {
    return survivors.contains(record.pid) && (m_running[vm_id] = record.pid) != 0;
  }
  std::optional<ProcessRecord> find_unrecorded(const std::string& vm_id, const fs::path&) override {
    const auto it = unrecorded.find(vm_id);
    if (it == unrecorded.end()) {
      return std::nullopt;
    }
    ProcessRecord record;
    record.pid = it->second;
    return record;
  }
  void kill(const std::string& vm_id) override {
    if (!ignores_kill) {
      end(vm_id, 137);
    }
  }
  // The process ends by itself.
  void end(const std::string& vm_id, std::optional<int> code) {
    const auto it = m_running.find(vm_id);
    if (it != m_running.end()) {
      const auto pid = it->second;
      m_running.erase(it);
      m_handler(vm_id, pid, code);
    }
  }
  bool running(const std::string& vm_id) const { return m_running.contains(vm_id); }

  int starts = 0;
  bool fail_starts = false;
  bool ignores_kill = false;
  ProcessSpec last;
  std::map<pid_t, bool> survivors;          // found alive by the next VM manager
  std::map<std::string, pid_t> unrecorded;  // alive without a record

 private:
  ExitHandler m_handler;
  std::map<std::string, pid_t> m_running;
  pid_t m_next_pid = 100;
};

class Lab {
 public:
  Lab() {
    make_image(directory.path() / "images", "dstack-0.6.0");
    config.run_path = directory.path() / "vm";
    config.image_path = directory.path() / "images";
    config.qemu_path = "/usr/bin/qemu-system-x86_64";
    config.mock_attestation_seed = std::string(64, 'a');
    config.port_mapping.enabled = true;
    config.port_mapping.ranges = {{"tcp", 1, 65535}};
    config.address.ip = "127.0.0.1";
    config.auto_restart.initial_backoff = std::chrono::seconds(2);
    config.auto_restart.max_backoff = std::chrono::seconds(5);
    config.auto_restart.max_retries = 3;
  }

  ManagerSeams seams() {
    return {processes,
            clock,
            Machine{},
            "http://10.0.2.2:10000/api",
            [](const fs::path& disk, std::uint32_t gigabytes) {
              return base::write_file_atomic(disk, base::format("{}G", gigabytes));
            },
            [this](std::uint16_t port, const std::string& token) -> base::Result<> {
              shutdown_port = port;
              shutdown_token = token;
              if (guest_silent) {
                return base::fail(base::Code::connect_failed, "nobody there");
              }
              return {};
            }};
  }
  // A new one stands for a VM manager that was started again.
  VmManager& restart() {
    manager.reset();
    manager = std::make_unique<VmManager>(config, seams());
    const auto loaded = manager->load();
    EXPECT_TRUE(loaded) << loaded.error().what();
    return *manager;
  }
  std::string status(const std::string& id) const {
    const auto view = manager->find(id);
    return view ? view->status : "gone";
  }
  fs::path vm(const std::string& id) const { return config.run_path / id; }

  test::TempDir directory;
  Config config;
  FakeClock clock;
  FakeProcesses processes;
  std::uint16_t shutdown_port = 0;
  std::string shutdown_token;
  bool guest_silent = false;
  std::unique_ptr<VmManager> manager;
};

inline std::string create(Lab& lab, const ::vmm::VmConfiguration& what) {
  const auto id = lab.manager->create(what);
  EXPECT_TRUE(id) << id.error().what();
  return id.value_or("");
}

// Without the lock files.
inline std::size_t entries(const fs::path& directory) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(directory)) {
    count += entry.path().filename() != ".lock" ? 1 : 0;
  }
  return count;
}

}  // namespace dstack::vmm::lab
