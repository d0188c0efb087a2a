// A VM's directory `<run_path>/<id>/` (spec/host.md section 4.11).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "vmm/manifest.h"
#include "vmm/vm_process.h"

namespace dstack::vmm {

namespace fs = std::filesystem;

// What of a VM's story outlives the VM manager.
struct Progress {
  std::string boot_progress;
  std::string boot_error;
  std::string shutdown_progress;
  std::int64_t started_at_ms = 0;  // 0 = never
  std::int64_t stopped_at_ms = 0;
  bool operator==(const Progress&) const = default;
};

class VmFiles {
 public:
  explicit VmFiles(fs::path directory) : m_directory(std::move(directory)) {}

  const fs::path& directory() const { return m_directory; }
  fs::path shared() const { return m_directory / "shared"; }
  fs::path compose() const { return shared() / "app-compose.json"; }
  fs::path sys_config() const { return shared() / ".sys-config.json"; }
  fs::path instance_info() const { return shared() / ".instance_info"; }
  fs::path user_config() const { return shared() / ".user-config"; }
  fs::path encrypted_env() const { return shared() / ".encrypted-env"; }
  fs::path tee_simulator() const { return shared() / ".tee-simulator.json"; }
  fs::path share_image() const { return m_directory / "shared.img"; }
  fs::path disk() const { return m_directory / "hda.img"; }
  fs::path lock() const { return m_directory / "qemu.lock"; }
  // "serial", "stdout" or "stderr".
  fs::path log(std::string_view channel) const { return m_directory / (std::string(channel) + ".log"); }

  base::Result<> write_manifest(const Manifest& manifest) const;
  base::Result<Manifest> read_manifest() const;

  // Should the VM run? A missing file means no.
  base::Result<> write_started(bool started) const;
  bool read_started() const;

  bool removing() const;
  base::Result<> mark_removing() const;

  base::Result<> write_progress(const Progress& progress) const;
  Progress read_progress() const;  // a missing or unusable file gives the default

  base::Result<> write_process(const ProcessRecord& record) const;
  std::optional<ProcessRecord> read_process() const;
  base::Result<> remove_process() const;

  // The secret that the guest and the VM manager know each other by.
  base::Result<> write_token(std::string_view token) const;
  base::Result<std::string> read_token() const;

  // Lower-case hex, empty when the guest has not said it yet.
  std::string read_instance_id() const;

 private:
  fs::path m_directory;
};

// Sub-directories of `run_path` with a usable VM id for a name, sorted. Directories of creations and removals
// that were interrupted are deleted on the way.
base::Result<std::vector<std::string>> list_vm_ids(const fs::path& run_path);

// Names of directories that are not VMs yet or any more.
fs::path staging_directory(const fs::path& run_path, std::string_view id);
fs::path discarded_directory(const fs::path& run_path, std::string_view id);

}  // namespace dstack::vmm
