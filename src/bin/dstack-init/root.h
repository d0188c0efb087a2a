// From the initramfs to the verified root file system.
#pragma once

#include <string>

#include "base/result.h"

namespace dstack::init {

// Mounts proc, sysfs and devtmpfs, and makes the console standard input, output and error.
base::Result<> mount_kernel_file_systems();

// Inserts the kernel modules that `list` names, one path a line relative to its directory, in that order.
// With `all_needed` a module that cannot be inserted is an error, else it is skipped.
base::Result<> insert_modules(const std::string& list, bool all_needed);

// Opens the root disk named by the kernel command line (dstack.rootfs_hash, dstack.rootfs_size and optionally
// dstack.rootfs_device) under dm-verity and mounts it on /newroot.
base::Result<> mount_root(const std::string& cmdline);

// Frees the initramfs and makes /newroot the root.
base::Result<> switch_root();

// The writable places of a running guest; image/README.md lists them.
base::Result<> mount_runtime();

}  // namespace dstack::init
