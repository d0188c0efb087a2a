// From a VM's record to a running process.
#include <google/protobuf/empty.pb.h>

#include "app/app_compose.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "host/image.h"
#include "net/client.h"
#include "rpc/client.h"
#include "vmm/fat_image.h"
#include "vmm/manager.h"
#include "vmm/manager_vm.h"
#include "vmm/share.h"
#include "vmm/vm_logs.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;

namespace {

// Where the guest's agent listens (docs/architecture.md).
constexpr std::uint16_t k_guest_agent_port = 8091;

Result<host::Image> load_bootable_image(const Config& config, const std::string& name) {
  DS_TRY(auto image, host::find_image(config.image_path, name));
  // Images made here carry this project's version, so upstream's lower bound of 0.5.0 says nothing about
  // them.
  if (!host::parse_image_version(image.metadata.version)) {
    return fail(Code::vm_start,
                base::format("image {} has no usable version (`{}`)", name, image.metadata.version),
                "build the image again with `dstackup image build`");
  }
  if (!image.rootfs || image.rootfs->extension() != ".verity") {
    return fail(Code::vm_start, base::format("image {} has no .verity root disk", name),
                "build it again with `dstackup image build`");
  }
  if (image.metadata.hda) {
    return fail(Code::unsupported,
                base::format("image {} has a template for the data disk, which is not supported by "
                             "this version",
                             name));
  }
  return image;
}

Nic make_nic(const Manifest& manifest, const NetworkDefaults& defaults) {
  const auto network = manifest.networks.empty() ? ManifestNetwork() : manifest.networks.front();
  const auto prefix_text = network.mac_prefix.empty() ? defaults.mac_prefix : network.mac_prefix;
  std::string digits;
  for (const char c : prefix_text) {
    if (c != ':') {
      digits += c;
    }
  }
  Nic nic;
  nic.mac = mac_address(manifest.id, 0, base::from_hex(digits).value_or(base::Bytes()));
  nic.net = network.net.empty() ? defaults.net : network.net;
  nic.dhcp_start = network.dhcp_start.empty() ? defaults.dhcp_start : network.dhcp_start;
  nic.restrict_guest = network.restrict_guest || defaults.restrict_guests;
  return nic;
}

}  // namespace

Result<> create_qcow2_disk(const fs::path& disk, std::uint32_t gigabytes) {
  const auto temporary = disk.native() + ".new";
  DS_CHECK(base::remove_file(temporary));
  base::Command command;
  command.argv = {"qemu-img", "create", "-q", "-f", "qcow2", temporary, base::format("{}G", gigabytes)};
  auto made = base::run_checked(command);
  if (!made) {
    return fail(std::move(made).error(), "cannot create the data disk");
  }
  std::error_code error;
  fs::permissions(temporary, fs::perms::owner_read | fs::perms::owner_write, error);
  fs::rename(temporary, disk, error);
  if (error) {
    return base::fail_errno(Code::io, base::format("cannot create {}", disk.native()), error.value());
  }
  return {};
}

Result<> call_guest_shutdown(std::uint16_t agent_port, const std::string& token) {
  if (agent_port == 0) {
    return fail(Code::guest_unreachable, "the port of the guest's agent is not known");
  }
  net::Endpoint endpoint;
  endpoint.host = "127.0.0.1";
  endpoint.port = agent_port;
  net::ClientOptions options;
  options.connect_timeout = std::chrono::seconds(5);
  options.timeout = std::chrono::seconds(15);
  options.max_body = 64 * 1024;
  const rpc::Client client(net::Client(endpoint, options), "/api", token);
  google::protobuf::Empty response;
  return client.call("Shutdown", google::protobuf::Empty(), response);
}

Result<LaunchSpec> VmManager::prepare(const Vm& vm, std::uint16_t agent_port) {
  const auto& manifest = vm.manifest;
  const auto& files = vm.files;
  if (manifest.has_gpus || manifest.hugepages || manifest.pin_numa || manifest.swtpm ||
      manifest.simulated_tee != "tdx" || manifest.networks.size() > 1 ||
      (!manifest.networks.empty() && manifest.networks.front().mode != "user")) {
    return fail(
        Code::unsupported, "the VM's manifest asks for something that this version cannot launch",
        "only simulated TDX VMs with one user network and without GPUs, hugepages and TPM can be started");
  }
  DS_TRY(const auto image, load_bootable_image(m_config, manifest.image));

  LaunchSpec spec;
  spec.qemu = m_config.qemu_path;
  spec.accelerator = m_seams.machine.accelerator;
  spec.directory = files.directory();
  spec.bios = image.bios;
  // Entered directly, the unpacked kernel saves its emulated unpacking; a measured firmware would have to
  // load it.
  const bool direct = image.vmlinux && !spec.accelerator.kvm && !image.bios;
  spec.kernel = direct ? *image.vmlinux : image.kernel;
  spec.initrd = image.initrd;
  spec.cmdline = image.metadata.cmdline;
  spec.rootfs = image.rootfs;
  for (const auto& volume : manifest.volumes) {
    std::error_code error;
    if (!fs::is_regular_file(volume, error)) {
      return fail(Code::vm_start, base::format("volume {} does not exist any more", volume),
                  "add it again with `dstackup volume add`");
    }
    spec.volumes.emplace_back(volume);
  }
  spec.nics.push_back(make_nic(manifest, m_config.networking));
  spec.forwards = manifest.ports;
  spec.forwards.push_back({"tcp", "127.0.0.1", agent_port, k_guest_agent_port});
  spec.vcpus = spec.accelerator.effective_vcpus(manifest.vcpu);
  spec.memory_mb = manifest.memory;
  spec.share_read_only = image.metadata.shared_ro;

  VmConfigFacts facts;
  facts.os_image_hash = image.os_image_hash;
  facts.cpu_count = spec.vcpus;
  facts.memory_size = std::uint64_t{manifest.memory} * 1024 * 1024;
  facts.image = manifest.image;
  facts.num_volumes = spec.volumes.size();
  facts.ovmf_variant = image.metadata.ovmf_variant.value_or("");
  const base::WriteOptions secret{.mode = 0600};
  DS_CHECK(base::write_file_atomic(
      files.sys_config(),
      sys_config_json(m_config, manifest, vm_config_json(facts), m_seams.host_api_url, vm.token), secret));
  DS_CHECK(base::write_file_atomic(files.tee_simulator(), tee_simulator_json(m_config.mock_attestation_seed),
                                   secret));
  DS_CHECK(write_fat_image(files.shared(), files.share_image()));
  std::error_code ignored;
  if (!fs::exists(files.disk(), ignored)) {
    DS_CHECK(m_seams.create_disk(files.disk(), manifest.disk_size));
  }
  return spec;
}

Result<> VmManager::start_process(const VmPointer& vm) {
  {
    const std::lock_guard lock(m_mutex);
    if (vm->removing) {
      return fail(Code::vm_state, base::format("VM {} is being removed", vm->manifest.id));
    }
    if (vm->broken) {
      return fail(*vm->broken);
    }
    if (vm->process) {
      return {};
    }
  }
  // These fields change only under the operation lock, which the caller holds.
  const auto& files = vm->files;
  for (const auto& port : vm->manifest.ports) {
    DS_CHECK(check_port_free(port));
  }
  DS_TRY(const auto agent_port, pick_loopback_port());
  DS_TRY(const auto spec, prepare(*vm, agent_port));
  const auto now = m_seams.clock.wall_ms();
  for (const auto* channel : {"serial", "stdout", "stderr"}) {
    DS_CHECK(begin_boot_log(files.log(channel), m_config.log.max_backups, now));
  }
  ProcessSpec process;
  process.vm_id = vm->manifest.id;
  auto command = qemu_command(spec);
  process.argv = std::move(command.argv);
  process.files = std::move(command.files);
  process.kvm = spec.accelerator.kvm;
  process.limits = qemu_limits(spec);
  process.directory = files.directory();
  process.stdout_log = files.log("stdout");
  process.stderr_log = files.log("stderr");
  process.lock_file = files.lock();

  // The lock is held over the start, so that an exit at once finds the process in its place.
  const std::lock_guard lock(m_mutex);
  DS_TRY(auto record, m_seams.processes.start(process));
  record.started_at_ms = now;
  record.agent_port = agent_port;
  record.accelerator = spec.accelerator.kvm ? "kvm" : "tcg";
  vm->process = record;
  vm->shutdown_requested = false;
  vm->progress = Progress{};
  vm->progress.boot_progress = "booting";
  vm->progress.started_at_ms = now;
  save_progress(*vm);
  if (const auto written = files.write_process(record); !written) {
    // Without a record it would be found again by its lock; say so and go on.
    base::log_warn(written.error().what());
  }
  base::log_info(base::format("VM {} ({}) runs as process {} under {}", vm->manifest.id, vm->manifest.name,
                              record.pid, record.accelerator));
  return {};
}

}  // namespace dstack::vmm
