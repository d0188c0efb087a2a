#include "vmm/accelerator.h"

#include <unistd.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "vmm/vm_user.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;

namespace {

// The last 256 bytes of the ROM; the CPU starts at the 16th from the end. In assembly:
//   far jump to f000:ff05, the ROM's image below 1 MiB; page tables at 1000h to 3fffh that map the first 2
//   MiB to themselves; a gate for exception 3 in an IDT at 5000h; CR4.PAE, CR3, EFER.LME, GDT, CR0.PE|PG; far
//   jump into 64-bit code; IDT; int3. The handler reads CR3 back and writes 10h to port f4h (isa-debug-exit:
//   exit code 33).
constexpr std::array<std::uint8_t, 256> k_probe_code = {
    0xea, 0x05, 0xff, 0x00, 0xf0, 0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x66, 0xc7, 0x06, 0x00, 0x10, 0x03,
    0x20, 0x00, 0x00, 0x66, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, 0x00, 0x00, 0x66, 0xc7, 0x06, 0x00,
    0x30, 0x83, 0x00, 0x00, 0x00, 0x66, 0xc7, 0x06, 0x30, 0x50, 0x7c, 0xff, 0x08, 0x00, 0x66, 0xc7,
    0x06, 0x34, 0x50, 0x00, 0x8e, 0x0f, 0x00, 0x66, 0xb8, 0x20, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0,
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, 0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f,
    0x32, 0x0d, 0x00, 0x01, 0x0f, 0x30, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0xa8, 0xff, 0x66, 0xb8, 0x11,
    0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0x66, 0xea, 0x6e, 0xff, 0x0f, 0x00, 0x08, 0x00, 0xbc, 0x00,
    0x40, 0x00, 0x00, 0x0f, 0x01, 0x1d, 0x34, 0x00, 0x00, 0x00, 0xcc, 0xf4, 0x0f, 0x20, 0xd8, 0x3d,
    0x00, 0x10, 0x00, 0x00, 0x75, 0x04, 0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0x8d, 0xb4, 0x00, 0x00, 0x90,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9b, 0x20, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x93, 0x00, 0x00, 0x17, 0x00, 0x90, 0xff, 0x0f, 0x00, 0xff, 0x0f,
    0x00, 0x50, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xe9, 0x0d, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
constexpr std::size_t k_rom_size = 64 * 1024;
constexpr std::size_t k_code_start = 0xff00;
constexpr int k_probe_exit = 33;

struct KvmAnswer {
  bool works = false;
  std::string reason;
};

Result<KvmAnswer> try_kvm(const std::string& qemu, const fs::path& scratch) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    return KvmAnswer{false, "/dev/kvm cannot be opened"};
  }
  const auto rom = scratch / ".kvm-probe.rom";
  DS_CHECK(base::write_file_atomic(rom, probe_rom(), {.mode = 0600}));
  base::Command command;
  command.argv = {qemu,
                  "-accel",
                  "kvm",
                  "-cpu",
                  "host",
                  "-machine",
                  "q35,kernel-irqchip=split,hpet=off",
                  "-m",
                  "16",
                  "-display",
                  "none",
                  "-nodefaults",
                  "-no-reboot",
                  "-bios",
                  rom.native(),
                  "-device",
                  "isa-debug-exit,iobase=0xf4,iosize=4"};
  command.timeout = std::chrono::seconds(2);
  const auto output = base::run(command);
  DS_CHECK(base::remove_file(rom));
  if (!output) {
    if (output.error().code == Code::timeout) {
      return KvmAnswer{false, "/dev/kvm opens, but a 64-bit guest does not run under it"};
    }
    return KvmAnswer{false, output.error().what()};
  }
  if (output->exit_code != k_probe_exit) {
    return KvmAnswer{false, base::format("a guest under KVM ended with code {}", output->exit_code)};
  }
  return KvmAnswer{true, "a probe guest ran under KVM"};
}

// The answer holds until the machine or QEMU changes; a guest that hangs costs the whole time limit to
// notice.
Result<KvmAnswer> probe_once_per_boot(const std::string& qemu, const std::string& version,
                                      const fs::path& scratch) {
  const auto path = scratch / ".accelerator.json";
  const auto boot = base::read_file("/proc/sys/kernel/random/boot_id", 256).value_or("");
  const auto key = base::format("{}|{}|{}", base::trim(boot), qemu, base::trim(version));
  const auto text = base::read_file(path, 64 * 1024).value_or("");
  const auto known = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (known.is_object() && known.value("key", nlohmann::json()) == key && known.contains("kvm") &&
      known["kvm"].is_boolean() && known.contains("reason") && known["reason"].is_string()) {
    return KvmAnswer{known["kvm"].get<bool>(), known["reason"].get<std::string>()};
  }
  DS_TRY(auto answer, try_kvm(qemu, scratch));
  const nlohmann::json record{{"key", key}, {"kvm", answer.works}, {"reason", answer.reason}};
  DS_CHECK(base::write_file_atomic(
      path, record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), {.mode = 0600}));
  return answer;
}

}  // namespace

std::string probe_rom() {
  std::string rom(k_rom_size, '\0');
  std::memcpy(rom.data() + k_code_start, k_probe_code.data(), k_probe_code.size());
  return rom;
}

Result<Machine> probe_machine(const std::string& qemu, AcceleratorChoice choice, const fs::path& scratch,
                              bool other_users, const fs::path& kvm) {
  base::Command ask;
  ask.argv = {qemu, "--version"};
  ask.timeout = std::chrono::seconds(10);
  const auto output = base::run_checked(ask);
  if (!output) {
    auto error = output.error();
    error.fix = "install the Debian package qemu-system-x86, or set [cvm] qemu_path";
    return fail(std::move(error), base::format("{} cannot be used", qemu));
  }
  Machine machine;
  DS_TRY(machine.qemu, parse_qemu_version(output->out));
  machine.accelerator.old_tcg = machine.qemu.major < 10;
  std::error_code ignored;
  const bool root_only = other_users && fs::exists(kvm, ignored) && !device_access(kvm).open;
  const auto closed = base::format("{} is open to root only, and VMs run as other users", kvm.native());
  switch (choice) {
    case AcceleratorChoice::kvm:
      if (root_only) {
        return fail(Code::vmm_config, closed,
                    base::format("give it to a group: chown root:kvm {0} && chmod 0660 {0}", kvm.native()));
      }
      machine.accelerator.kvm = true;
      machine.reason = "the configuration says so";
      break;
    case AcceleratorChoice::tcg:
      machine.reason = "the configuration says so";
      break;
    case AcceleratorChoice::automatic: {
      if (root_only) {
        machine.reason = closed;
        break;
      }
      DS_TRY(const auto answer, probe_once_per_boot(qemu, output->out, scratch));
      machine.accelerator.kvm = answer.works;
      machine.reason = answer.reason;
      break;
    }
  }
  return machine;
}

}  // namespace dstack::vmm
