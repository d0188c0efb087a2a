// PID 1 of a guest: initramfs, verified root, then one child until the end of the machine.
#include <unistd.h>

#include <cstdio>

#include "base/kernel_cmdline.h"
#include "root.h"
#include "supervise.h"

namespace dstack::init {
namespace {

constexpr const char* k_early_modules = "/modules/list";
constexpr const char* k_boot_modules = "/usr/lib/dstack/modules/list";

base::Result<Ending> boot() {
  DS_CHECK(mount_kernel_file_systems());
  DS_CHECK(insert_modules(k_early_modules, /*all_needed=*/true));
  DS_TRY(const auto cmdline, base::read_kernel_cmdline());
  DS_CHECK(mount_root(cmdline));
  DS_CHECK(switch_root());
  DS_CHECK(insert_modules(k_boot_modules, /*all_needed=*/false));
  DS_CHECK(mount_runtime());
  return supervise();
}

int run() {
  if (::getpid() != 1) {
    std::fprintf(stderr, "dstack-init is PID 1 of a dstack guest and does nothing elsewhere\n");
    return 2;
  }
  block_signals();
  const auto ending = boot();
  if (ending) {
    end_machine(*ending);
  }
  const auto& error = ending.error();
  std::fprintf(stderr, "dstack-init: boot failed (%s): %s%s%s\n", base::to_string(error.code).c_str(),
               error.what().c_str(), error.fix.empty() ? "" : "; ", error.fix.c_str());
  // A reset and not a power off: under -no-reboot QEMU ends at once, and on a machine the boot is tried
  // again.
  end_machine(Ending::reboot);
}

}  // namespace
}  // namespace dstack::init

int main() {
  return dstack::init::run();
}
